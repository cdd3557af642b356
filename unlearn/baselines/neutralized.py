"""Neutralized (Kim & Woo 2022, "Efficient two-stage model retraining for machine unlearning").

A reconstruction from the abstract: there is no public code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor, nn

from unlearn.baselines.base import BASELINES, Baseline, FullAccess, Outcome, batch_of_two, positive
from unlearn.baselines.steps import Step
from unlearn.data import Images
from unlearn.engine.fitting import ShuffledRows
from unlearn.engine.precision import forward
from unlearn.engine.predict import predict
from unlearn.engine.seeding import seeded
from unlearn.errors import UserError
from unlearn.models.adapt import copied
from unlearn.relearning.relearn import l_retain
from unlearn.scenarios import Scenario, Task
from unlearn.training import TrainingConfig


def contrastive_labels(y: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    """Random labels other than each image's own: (B,) -> (B,), uniform over the others."""
    return (y + torch.randint(1, classes, y.shape, device=y.device, generator=rng)) % classes


def l_distil(logits: Tensor, y: Tensor, p: Tensor, alpha: float, temperature: float) -> Tensor:
    """alpha CE + (1 - alpha) T^2 KL(f_o), up to f_o's own entropy, mean over the batch.

    Args:
        logits: (B, classes); ``y`` labels (B,); ``p`` f_o's softmax (B, classes).
    """
    return alpha * F.cross_entropy(logits, y) + (1 - alpha) * l_retain(logits, p, temperature)


class _Step(Step):
    """What both stages share."""

    def __init__(
        self, cfg: Neutralized, epochs: int, model: nn.Module, data: Images, access: FullAccess
    ) -> None:
        self.rng = seeded(access.seed, self.stage, device=data.x.device)
        self.batches = ShuffledRows(len(data), cfg.batch_size, epochs, self.rng)
        super().__init__(cfg, model, len(self.batches), access.augment)
        self.data, self.own = data, cfg


class Neutralizing(_Step):
    """Stage 1: D_e with wrong labels."""

    stage = "neutralizing"

    def losses(self, batch: Any) -> dict[str, Tensor]:
        logits = forward(self.model, self.images(self.data, batch))
        wrong = contrastive_labels(self.data.y[batch], logits.shape[1], self.rng)
        return {"loss": F.cross_entropy(logits, wrong)}


class Retraining(_Step):
    """Stage 2: D_r, with f_o's answers distilled."""

    stage = "retraining"
    original: nn.Module

    def losses(self, batch: Any) -> dict[str, Tensor]:
        x = self.images(self.data, batch)
        with torch.no_grad():
            p = forward(self.original, x).softmax(-1)
        c = self.own
        return {
            "loss": l_distil(forward(self.model, x), self.data.y[batch], p, c.alpha, c.temperature)
        }


class UntilChance(pl.Callback):
    """Ends stage 1 once D_e's own labels are answered no more often than by chance."""

    def __init__(self, erased: Images, classes: int, per_epoch: int) -> None:
        self.erased, self.chance, self.per_epoch = erased, 1 / classes, per_epoch

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        if trainer.global_step % self.per_epoch == 0:
            assert isinstance(pl_module, Neutralizing)
            right = predict(pl_module.model, self.erased.x) == self.erased.y.cpu()
            if right.float().mean() <= self.chance:
                trainer.should_stop = True


@BASELINES.register("neutralized")
@dataclass
class Neutralized(Baseline):
    """Loses D_e with wrong labels until chance, then retrains on D_r with distillation.

    Attributes:
        scrub_epochs: at most so many epochs of the first stage.
        epochs: of the second stage.
        alpha: share of the cross entropy beside the distillation.
        temperature: T of the distillation.
    """

    aim: ClassVar[str | None] = "std"
    stages: ClassVar[tuple[str, ...]] = ("neutralizing", "retraining")
    scrub_epochs: int = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    alpha: float = MISSING
    temperature: float = MISSING

    def check(self, scenario: Scenario) -> None:
        positive(self, "scrub_epochs", "epochs", "lr", "temperature")
        batch_of_two(self.batch_size)
        for key in ("momentum", "alpha"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"baseline.{key}", f"{getattr(self, key)!r} is not in [0, 1]")

    def passes(self, training: TrainingConfig, task: Task) -> float:
        return 1.3 * self.epochs * len(task.train)

    def unlearn(self, access: FullAccess) -> Outcome:
        task, device = access.task, next(access.original.parameters()).device
        model = copied(access.original).requires_grad_(True).train()
        d_e, d_r = (task.train[m] for m in (task.forget, ~task.forget))
        d_e, d_r = (Images(d.x.to(device), d.y.to(device)) for d in (d_e, d_r))
        first = Neutralizing(self, self.scrub_epochs, model, d_e, access)
        per_epoch = len(first.batches) // self.scrub_epochs
        until = UntilChance(d_e, len(task.classes), per_epoch)
        history = access.fit.run(first, first.batches, device, callbacks=[until])
        second = Retraining(self, self.epochs, model.train(), d_r, access)
        second.original = access.original
        history = history + access.fit.run(second, second.batches, device)
        return Outcome(model.eval(), history)
