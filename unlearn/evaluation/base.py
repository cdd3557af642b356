"""What a measure is: a function of what a model makes of a task's images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from unlearn.errors import UserError
from unlearn.evaluation.outputs import Outputs
from unlearn.evaluation.references import References
from unlearn.registry import Registry
from unlearn.scenarios import Task


def absent() -> None:
    """There is none."""


@dataclass(frozen=True)
class Others:
    """What a model is compared with. Each is loaded or trained only when a measure asks for it.

    Attributes:
        original: gives f_o, in eval mode on the device to compute on; None where it is not kept.
        oracle: gives the oracle of the run, likewise; None where it has not been run.
        references: gives the answers of the reference models; None where none can be trained.
    """

    original: Callable[[], nn.Module | None] = absent
    oracle: Callable[[], nn.Module | None] = absent
    references: Callable[[], References | None] = absent


@dataclass(frozen=True)
class Evidence:
    """What a measure may look at. A measure that needs more adds a field here and fills it in
    ``evaluate``; the others do not notice.

    Attributes:
        model: the model to measure, in eval mode, on the device to compute on.
        task: D with its labels, D_e within it, the test set.
        train, test: the model's answers on D (N images) and on the test set (M), on the CPU.
        seed: for whatever the measure draws.
        others: the models to compare with.
    """

    model: nn.Module
    task: Task
    train: Outputs
    test: Outputs
    seed: int
    others: Others = field(default_factory=Others)


Measure = Callable[[Evidence], dict[str, float]]
"""A measure gives finite numbers by name; accuracies and other shares are in [0, 1]."""

MEASURES: Registry[Measure] = Registry("measure")
"""Every measure that takes a second or two, by name. New runs have its numbers; finished ones get
them by ``unlearn evaluate``.

Example:
    >>> @MEASURES.register("confidence")
    ... def confidence(seen: Evidence) -> dict[str, float]:
    ...     sure = seen.test.probabilities.amax(-1)
    ...     return {"confidence_D_e": float(sure[seen.task.test_forget].mean())}
"""

ON_REQUEST: Registry[Measure] = Registry("measure")
"""Measures that train something, by name. Only ``unlearn evaluate --only NAME`` computes them."""


def measures_named(names: list[str]) -> dict[str, Measure]:
    """Measures of either kind by their names.

    Raises:
        UserError: if there is no such measure.
    """
    return {n: ON_REQUEST[n] if n in set(ON_REQUEST) else MEASURES[n] for n in names}


def needed_original(seen: Evidence, measure: str) -> nn.Module:
    """f_o.

    Raises:
        UserError: if it is not kept.
    """
    original = seen.others.original()
    if original is None:
        raise UserError(
            measure,
            "needs the original model, which the store no longer holds; a new run of the same "
            "scenario keeps it there again",
        )
    return original
