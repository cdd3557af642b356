"""What baselines that take steps on D_r and D_e have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from unlearn.baselines.base import Baseline, FullAccess, batch_of_two, positive
from unlearn.data import Images
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import LossModule, batched, number_of_batches
from unlearn.engine.precision import forward
from unlearn.engine.seeding import seeded
from unlearn.errors import UserError, choices
from unlearn.models.adapt import copied
from unlearn.models.probe import freeze_batchnorm
from unlearn.scenarios import Scenario, Task
from unlearn.training import TrainingConfig


class Rate(Protocol):
    """The settings of SGD."""

    lr: float
    momentum: float


class Step(LossModule):
    """SGD over augmented images that lie on the device."""

    settings = "baseline"
    weight_decay = 0.0

    def __init__(self, cfg: Rate, model: nn.Module, steps: int, augment: Augment) -> None:
        super().__init__(steps)
        self.cfg, self.model, self.augment = cfg, model, augment

    def images(self, data: Images, rows: Tensor) -> Tensor:
        """Augmented ones, (b, C, H, W) in [0, 1]."""
        return self.augment(data.x[rows], self.rng)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(
            self.model.parameters(),
            lr=self.cfg.lr,
            momentum=self.cfg.momentum,
            weight_decay=self.weight_decay,
            fused=self.fused,
        )


class Turns:
    """Batches of D_e and of D_r in turns: in each epoch first D_e, while it has its turn, then D_r.

    Args:
        erased, retained: numbers of their images.
        erasing: in so many of the first epochs D_e has its turn.
    """

    def __init__(
        self,
        erased: int,
        retained: int,
        size: int,
        epochs: int,
        erasing: int,
        rng: torch.Generator,
    ) -> None:
        self.numbers, self.size, self.rng = {True: erased, False: retained}, size, rng
        self.epochs = [[True, False] if e < erasing else [False] for e in range(epochs)]
        self.ends: list[int] = []
        for turns in self.epochs:
            done = sum(number_of_batches(self.numbers[turn], size) for turn in turns)
            self.ends.append(done + (self.ends[-1] if self.ends else 0))

    def __len__(self) -> int:
        return self.ends[-1]

    def __iter__(self) -> Iterator[tuple[bool, Tensor]]:
        """Whether the rows (b,) are of D_e, and they."""
        for turn in [turn for turns in self.epochs for turn in turns]:
            order = torch.randperm(self.numbers[turn], device=self.rng.device, generator=self.rng)
            for rows in batched(order, self.size):
                yield turn, rows


@dataclass
class Finetuned(Baseline):
    """A baseline that takes steps from f_o on D_r, and most on D_e too.

    D_e is what is given of it: all of it with ``shot=1.0``; of fewer shots the rest stays in D_r,
    as for the oracle.

    Attributes:
        batchnorm: ``train`` or ``frozen`` running statistics.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"shot", "seed"})
    aim: ClassVar[str | None] = "std"
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    batchnorm: str = MISSING

    def check(self, scenario: Scenario) -> None:
        positive(self, "epochs", "lr")
        batch_of_two(self.batch_size)
        if not 0 <= self.momentum < 1:
            raise UserError("baseline.momentum", f"{self.momentum!r} is not a number in [0, 1)")
        if self.weight_decay < 0:
            raise UserError("baseline.weight_decay", f"{self.weight_decay!r} is below 0")
        if self.batchnorm not in ("train", "frozen"):
            raise choices("baseline.batchnorm", self.batchnorm, ("train", "frozen"))

    def passes(self, training: TrainingConfig, task: Task) -> float:
        return self.epochs * len(task.train)

    def student(self, access: FullAccess) -> nn.Module:
        """A copy of f_o to be trained."""
        student = copied(access.original).requires_grad_(True).train()
        if self.batchnorm == "frozen":
            freeze_batchnorm(student)
        return student


class Finetuning(Step):
    """Steps of a ``Finetuned``: D_e and D_r lie on the device."""

    cfg: Finetuned

    def __init__(self, cfg: Finetuned, access: FullAccess, erasing: int) -> None:
        self.stage = cfg.name
        self.rng = seeded(access.seed, cfg.name, device=access.device)
        self.erased, self.retained = parts(access)
        numbers = len(self.erased), len(self.retained)
        self.batches = Turns(*numbers, cfg.batch_size, cfg.epochs, erasing, self.rng)
        super().__init__(cfg, cfg.student(access), len(self.batches), access.augment)
        self.weight_decay = cfg.weight_decay

    def logits(self, data: Images, rows: Tensor) -> Tensor:
        """Of the model on augmented images."""
        return forward(self.model, self.images(data, rows))


def parts(access: FullAccess) -> tuple[Images, Images]:
    """What is given of D_e, and the rest of D, on the device."""
    erased, retained = (access.task.train[m] for m in (access.given, ~access.given))
    there = [Images(d.x.to(access.device), d.y.to(access.device)) for d in (erased, retained)]
    return there[0], there[1]
