"""What a baseline is: a method of the literature that is given all the training data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytorch_lightning as pl
from omegaconf import MISSING
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from unlearn.augment import Augment
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
        callbacks, logger, progress: for the stages that train.
    """

    original: nn.Module
    task: Task
    given: Tensor
    intention: Intention
    training: TrainingConfig
    augment: Augment
    fresh: Callable[[], nn.Module]
    seed: int
    callbacks: Sequence[pl.Callback] = ()
    logger: Logger | None = None
    progress: bool = False


@dataclass
class Outcome:
    """An unlearned model in eval mode and the history of its losses."""

    model: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Baseline(ABC):
    """One baseline. One file with one registered class and one YAML adds another.

    Attributes:
        uses: which of the knobs ``intention``, ``shot`` and ``seed`` change its result.
        aim: the intention whose oracle it is measured against; None is the run's own.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"seed"})
    aim: ClassVar[str | None] = None
    name: str = MISSING

    def check(self, scenario: Scenario) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: naming the setting and what it allows.
        """

    @abstractmethod
    def unlearn(self, access: FullAccess) -> Outcome:
        """Unlearn D_e from a copy of the original.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
        """


BASELINES: Registry[type[Baseline]] = Registry("baseline")
