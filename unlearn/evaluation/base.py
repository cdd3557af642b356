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
    """What a measure may look at.

    Attributes:
        model: in eval mode.
        task: D, D_e, the test set.
        train, test: what the model makes of D and of the test set.
        seed: for whatever it draws.
    """

    model: nn.Module
    task: Task
    train: Outputs
    test: Outputs
    seed: int


# A measure gives numbers by name; accuracies and other shares in [0, 1].
Measure = Callable[[Evidence], dict[str, float]]
MEASURES: Registry[Measure] = Registry("measure")
