"""What a measure is called and how its values are shown."""

from __future__ import annotations

from dataclasses import dataclass

# Shown below each table where the runs have them: how far from the oracle, and honest attacks.
EXTRAS = (
    "oracle_agreement",
    "oracle_js",
    "tug_of_war",
    *(
        f"mia_{part}_{score}"
        for part in ("D_r", "D_e")
        for score in ("balanced_accuracy", "auc", "tpr_at_1_fpr")
    ),
    *("rmia_auc", "rmia_auc_less_oracle", "rmia_tpr_at_1_fpr", "rmia_fpr_step"),
    *("relearn_steps", "relearn_time"),
    *("probe_D_r", "probe_D_r_less_oracle", "probe_D_e", "probe_D_e_less_oracle"),
)
ANSWERS = ("answers_before_", "answers_after_")  # and the name of a class

LABELS = {
    "asr": "ASR",
    "norm": "L2 norm",
    "oracle_agreement": "agreement with the oracle",
    "oracle_js": "Jensen-Shannon divergence from the oracle",
    "tug_of_war": "tug of war",
    "balanced_accuracy": "attack's balanced accuracy",
    "auc": "attack's AUC",
    "tpr_at_1_fpr": "attack's TPR at 1 % FPR",
    "rmia_auc": "RMIA's AUC",
    "rmia_auc_less_oracle": "RMIA's AUC less the oracle's",
    "rmia_tpr_at_1_fpr": "RMIA's TPR at 1 % FPR",
    "rmia_fpr_step": "step of RMIA's FPR",
    "relearn_steps": "steps to relearn D_e",
    "relearn_time": "relearn time over the oracle's",
    "probe": "linear probe",
    "probe_less_oracle": "linear probe less the oracle's",
}
UNITS = {
    **{"oracle_js": "nats", "tug_of_war": "", "auc": "", "norm": ""},
    **{"rmia_auc": "", "rmia_auc_less_oracle": "", "relearn_steps": "", "relearn_time": ""},
    "probe_less_oracle": "points",
}
DECIMALS = {
    **{"oracle_js": 4, "tug_of_war": 3, "auc": 3, "rmia_auc": 3, "rmia_auc_less_oracle": 3},
    "relearn_time": 2,
}


@dataclass(frozen=True)
class Measure:
    """A key of a run's metrics and how it is shown.

    Attributes:
        key: in ``metrics``.
        label: in words.
        unit: %, points (of %), nats or nothing.
        factor: from the stored value to the shown one; shares are shown in %.
        decimals: shown, where the paper does not say.
        spread: the metric that stands after the ±; None is the standard deviation over seeds.
        interval: whether a 95 % t-interval over seeds stands in the place of the ±.
    """

    key: str
    label: str
    unit: str
    factor: float
    decimals: int
    spread: str | None
    interval: bool = False


def measure(key: str) -> Measure:
    """The measure of a key: ``D_r``, ``asr_D_e``, ``norm_D_e``, ``mia_D_r_auc``, ..."""
    kind, part = key, ""
    if key.startswith(ANSWERS):
        return Measure(key, key.replace("_", " "), "", 1, 1, None)
    for name in ("D_r", "D_e"):
        if name in key:
            kind, part = key.replace(name, "").removeprefix("mia").strip("_"), name
            kind = kind.replace("__", "_")
    label = f"{LABELS.get(kind, kind)} {part}".strip()
    unit = UNITS.get(kind, "%")
    factor = 100 if unit in ("%", "points") else 1
    spread, interval = f"{key}_std" if kind == "norm" else None, kind == "tug_of_war"
    return Measure(key, label, unit, factor, DECIMALS.get(kind, 1), spread, interval)
