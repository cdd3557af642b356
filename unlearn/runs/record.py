"""The content of ``metrics.json``."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from unlearn.engine.store import write_text

# Left out of the file where they say nothing.
OPTIONAL = ("target_like", "samples", "threshold", "predictions", "chosen", "answers")
# Never empty in a finished run.
NESTED = ("config", "metrics", "still_target", "seconds", "versions")


@dataclass
class StageRecord:
    """A stage that made a run.

    Attributes:
        key: under which the store keeps it.
        version: of its code.
        seconds: as first computed.
    """

    key: str
    version: int
    seconds: float


@dataclass
class Record:
    """All that is said of a finished run.

    Attributes:
        method: ``ours`` or the baseline's name.
        intention, shot, seed: None where the result does not depend on them.
        shots: how many images of D_e were given.
        note: what must be said beside a number from these images.
        config: the settings that the result depends on; ``config_hash`` stands for them.
        metrics: measures by name; accuracies and other shares in [0, 1].
        still_target: share of the test D_e that gets the label to forget, ``before``, ``after``; of
            one's own model, of the shots.
        target_like, samples, threshold: of the proxy; ours only.
        predictions: answers on the test D_e over the epochs, if they were followed.
        answers: of one's own model: how often it answers each class on the shots, ``before`` and
            ``after``.
        chosen: what another method chose by itself: its learning rate, its steps, whether the
            intention holds on the shots.
        seconds: of each stage, as first computed.
        stages: what made it, but for one's own checkpoint.
        weights: fingerprint of the unlearned weights.
        measures: names of the measures that gave ``metrics``.
        measured: the evaluation's version, where all of them are of one version.
        commit: of the checkout that made it; None outside of one.
        dirty: whether the checkout's files differed from the commit.
        threads: of the CPU.
        precision: of the networks while they were fitted.
        finished: ISO time.
    """

    scenario: str
    method: str
    intention: str | None
    shot: float | str | None
    shots: int
    seed: int | None
    scale: str
    data: str
    note: str
    classes: list[str]
    experiment: str | None
    config: dict[str, Any]
    config_hash: str
    metrics: dict[str, float]
    still_target: dict[str, float]
    seconds: dict[str, float]
    stages: dict[str, StageRecord]
    weights: str
    measures: list[str]
    measured: int
    commit: str | None
    dirty: bool
    threads: int
    precision: str
    hardware: str
    versions: dict[str, str | None]
    finished: str
    target_like: int | None = None
    samples: int | None = None
    threshold: float | None = None
    predictions: dict[str, Any] | None = None
    answers: dict[str, dict[str, int]] | None = None
    chosen: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """As the file has it."""
        values = asdict(self)
        return {k: v for k, v in values.items() if k not in OPTIONAL or v is not None}

    def write(self, folder: Path) -> None:
        """Write ``metrics.json`` at once, and forget that the run ever failed."""
        write_text(folder / "metrics.json", json.dumps(self.plain(), indent=1) + "\n")
        (folder / "error.json").unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record of a run's folder; None if there is none that this version can read."""
        try:
            values = json.loads((folder / "metrics.json").read_text())
            known = {f.name for f in fields(cls)}
            values = {k: v for k, v in values.items() if k in known}
            values["stages"] = {k: StageRecord(**v) for k, v in values["stages"].items()}
            nested = [dict(values[k]) for k in NESTED]
            return cls(**values) if all(nested) else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass
class Failure:
    """The content of ``error.json``: why a run failed."""

    error: str
    scenario: str
    method: str
    seed: int | None
    scale: str
    config: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write ``error.json`` at once."""
        write_text(folder / "error.json", json.dumps(asdict(self), indent=1) + "\n")


def history_csv(history: dict[str, list[dict[str, float]]]) -> str:
    """Every stage's losses in long form: stage, step, name, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stage", "step", "name", "value"])
    for stage, rows in history.items():
        for row in rows:
            for name, value in row.items():
                if name != "step":
                    writer.writerow([stage, int(row["step"]), name, value])
    return text.getvalue()
