"""What is measured of a model on a task: every registered measure (Sections 5.1, 5.2)."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor, nn

from unlearn.evaluation.base import MEASURES, Evidence
from unlearn.evaluation.outputs import Outputs, outputs
from unlearn.scenarios import Task

# Raised whenever a measure gives other numbers than before.
VERSION = 1


@dataclass
class Evaluation:
    """A model's measures, its answers on the test set, and how long measuring took."""

    metrics: dict[str, float]
    test: Outputs
    seconds: float

    @property
    def predicted(self) -> Tensor:
        """Predicted classes (M,) of the test set."""
        return self.test.predicted


def evaluate(model: nn.Module, task: Task, seed: int) -> Evaluation:
    """Every measure of a model in eval mode.

    Args:
        seed: for what the measures draw.
    """
    start = time.perf_counter()
    seen = Evidence(model, task, outputs(model, task.train.x), outputs(model, task.test.x), seed)
    metrics: dict[str, float] = {}
    for name in MEASURES:
        metrics |= MEASURES[name](seen)
    return Evaluation(metrics, seen.test, time.perf_counter() - start)
