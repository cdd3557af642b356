"""What a measure is called and how its values are shown."""

from __future__ import annotations

from dataclasses import dataclass

# Shown below each table where the runs have them: how far from the oracle, and an honest attack.
EXTRAS = (
    "oracle_agreement",
    "oracle_js",
    "tug_of_war",
    *(
        f"mia_{part}_{score}"
        for part in ("D_r", "D_e")
        for score in ("balanced_accuracy", "auc", "tpr_at_1_fpr")
    ),
)

LABELS = {
    "asr": "ASR",
    "norm": "L2 norm",
    "oracle_agreement": "agreement with the oracle",
    "oracle_js": "Jensen-Shannon divergence from the oracle",
    "tug_of_war": "tug of war",
    "balanced_accuracy": "attack's balanced accuracy",
    "auc": "attack's AUC",
    "tpr_at_1_fpr": "attack's TPR at 1 % FPR",
}
UNITS = {"oracle_js": "nats", "tug_of_war": "", "auc": "", "norm": ""}
DECIMALS = {"oracle_js": 4, "tug_of_war": 3, "auc": 3}


@dataclass(frozen=True)
class Measure:
    """A key of a run's metrics and how it is shown.

    Attributes:
        key: in ``metrics``.
        label: in words.
        unit: %, nats or nothing.
        factor: from the stored value to the shown one; shares are shown in %.
        decimals: shown, where the paper does not say.
        spread: the metric that stands after the ±; None is the standard deviation over seeds.
    """

    key: str
    label: str
    unit: str
    factor: float
    decimals: int
    spread: str | None


def measure(key: str) -> Measure:
    """The measure of a key: ``D_r``, ``asr_D_e``, ``norm_D_e``, ``mia_D_r_auc``, ..."""
    kind, part = key, ""
    for name in ("D_r", "D_e"):
        if name in key:
            kind, part = key.replace(name, "").removeprefix("mia").strip("_"), name
    label = f"{LABELS.get(kind, kind)} {part}".strip()
    unit = UNITS.get(kind, "%")
    spread = f"{key}_std" if kind == "norm" else None
    return Measure(key, label, unit, 100 if unit == "%" else 1, DECIMALS.get(kind, 1), spread)
