"""What a measure is: a function of what a model makes of a task's images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from unlearn.evaluation.outputs import Outputs
from unlearn.registry import Registry
from unlearn.scenarios import Task


@dataclass(frozen=True)
class Evidence:
    """What a measure may look at. A measure that needs more adds a field here and fills it in
    ``evaluate``; the others do not notice.

    Attributes:
        model: the model to measure, in eval mode, on the device to compute on.
        task: D with its labels, D_e within it, the test set.
        train, test: the model's answers on D (N images) and on the test set (M), on the CPU.
        seed: for whatever the measure draws.
    """

    model: nn.Module
    task: Task
    train: Outputs
    test: Outputs
    seed: int


Measure = Callable[[Evidence], dict[str, float]]
"""A measure gives finite numbers by name; accuracies and other shares are in [0, 1]."""

MEASURES: Registry[Measure] = Registry("measure")
"""Every measure, by name. New runs have its numbers; finished ones get them by
``unlearn evaluate``.

Example:
    >>> @MEASURES.register("confidence")
    ... def confidence(seen: Evidence) -> dict[str, float]:
    ...     sure = seen.test.probabilities.amax(-1)
    ...     return {"confidence_D_e": float(sure[seen.task.test_forget].mean())}
"""
