"""What is measured of a model on a task: the registered measures (Sections 5.1, 5.2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from unlearn.engine.fitting import gpu_layout
from unlearn.evaluation.base import MEASURES, Evidence, Others, measures_named
from unlearn.evaluation.outputs import Outputs, outputs
from unlearn.scenarios import Task

# Raised whenever a measure gives other numbers than before. A new measure does not raise it.
VERSION = 2


@dataclass
class Evaluation:
    """A model's numbers.

    Attributes:
        metrics: numbers by name.
        measures: names of the measures that gave them.
        test: the model's answers on the test set.
        seconds: how long measuring took.
    """

    metrics: dict[str, float]
    measures: list[str]
    test: Outputs
    seconds: float

    @property
    def predicted(self) -> Tensor:
        """Predicted classes (M,) of the test set."""
        return self.test.predicted


def evaluate(
    model: nn.Module,
    task: Task,
    seed: int,
    only: Sequence[str] | None = None,
    others: Others | None = None,
) -> Evaluation:
    """Measure a model in eval mode. It answers each image once, however many measures there are.

    Args:
        seed: for what the measures draw.
        only: names of measures; None is all of ``MEASURES``.
        others: the models to compare with.

    Raises:
        UserError: if there is no such measure, or it lacks a model to compare with.
    """
    start = time.perf_counter()
    model = gpu_layout(model)  # the same kernels, so the same digits, wherever it comes from
    chosen = measures_named(list(MEASURES if only is None else only))
    seen = Evidence(
        model,
        task,
        outputs(model, task.train.x),
        outputs(model, task.test.x),
        seed,
        others or Others(),
    )
    metrics: dict[str, float] = {}
    for measure in chosen.values():
        metrics |= measure(seen)
    return Evaluation(metrics, list(chosen), seen.test, time.perf_counter() - start)
