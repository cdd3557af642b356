"""What a baseline is: a method of the literature that is given all the training data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit
from unlearn.engine.stages import Stage, settings_of
from unlearn.engine.store import Entry, state_of
from unlearn.errors import UserError
from unlearn.methods import Competitor
from unlearn.registry import Registry
from unlearn.relearning import Intention
from unlearn.scenarios import Scenario, Task
from unlearn.training import TrainingConfig


@dataclass
class FullAccess:
    """All that a baseline may see, and that few-shot unlearning never does.

    Attributes:
        original: f_o, in eval mode, on the device to compute on.
        task: D with its labels, D_e within it, the test set.
        given: (N,) bool, the part of D_e that is indicated; all of it unless ``uses`` has shot.
        intention: what D_e shall be answered.
        training, augment: how the original was trained.
        fresh: makes a freshly initialised network like the original, another one for each seed.
        seed: of everything random.
        fit: how its stages are fitted and shown.
    """

    original: nn.Module
    task: Task
    given: Tensor
    intention: Intention
    training: TrainingConfig
    augment: Augment
    fresh: Callable[[], nn.Module]
    seed: int
    fit: Fit = field(default_factory=Fit)

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return next(self.original.parameters()).device


@dataclass
class Outcome:
    """What a baseline made.

    Attributes:
        model: the unlearned model, in eval mode.
        history: of its losses.
    """

    model: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Baseline(Competitor, ABC):
    """One baseline. One file with one registered class and one YAML adds another.

    Attributes:
        stages: names of the stages that it computes and that are worth keeping.
        changes_nothing: whether its result is f_o itself.
    """

    sees_all: ClassVar[bool] = True
    changes_nothing: ClassVar[bool] = False
    stages: ClassVar[tuple[str, ...]] = ()
    name: str = MISSING

    def check(self, scenario: Scenario) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: naming the setting and what it allows.
        """

    def passes(self, training: TrainingConfig, task: Task) -> float:
        """About how many images it trains on, each epoch's counted; to estimate its time."""
        return 0

    @abstractmethod
    def unlearn(self, access: FullAccess) -> Outcome:
        """Unlearn D_e from a copy of the original.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
        """


class BaselineStage(Stage):
    """What a baseline makes of the original.

    Args:
        settings: those that a run's result depends on.
    """

    def __init__(self, baseline: Baseline, settings: Mapping[str, Any]) -> None:
        self.name, self.VERSION = baseline.name, baseline.VERSION
        self.baseline, self.settings = baseline, settings

    def key(self) -> dict[str, Any]:
        parts = ("baseline", "intention", "seed", "model", "training", "augment")
        known = {k: self.settings[k] for k in parts if k in self.settings}
        return known | {"baseline": settings_of(self.baseline)}

    def make(self, access: FullAccess) -> Entry:
        """Unlearn.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
        """
        outcome = self.baseline.unlearn(access)
        remark: dict[str, Any] = {"history": outcome.history}
        if access.fit.watch is not None:
            seen = access.fit.watch.predictions
            remark["predictions"] = {s: seen[s] for s in self.baseline.stages if s in seen}
        return state_of(outcome.model), remark


def positive(baseline: Baseline, *keys: str) -> None:
    """Refuse numbers that are not above 0; None, where it is allowed, is none.

    Raises:
        UserError: naming the first of ``keys`` that is not.
    """
    for key in keys:
        value = getattr(baseline, key)
        if value is not None and not value > 0:
            raise UserError(f"baseline.{key}", f"{value!r} is not above 0")


def batch_of_two(size: int) -> None:
    """Refuse batches of one image, which a BatchNorm that is trained refuses.

    Raises:
        UserError: naming ``baseline.batch_size``.
    """
    if size < 2:
        raise UserError("baseline.batch_size", f"{size!r} is not a whole number from 2")


BASELINES: Registry[type[Baseline]] = Registry("baseline")
