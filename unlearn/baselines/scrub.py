"""scrub: away from f_o on D_e and near it on D_r, in turns (SCRUB)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor, nn

from unlearn.baselines.base import BASELINES, FullAccess, Outcome, positive
from unlearn.baselines.steps import Finetuned, Finetuning
from unlearn.engine.precision import forward
from unlearn.errors import UserError
from unlearn.scenarios import Scenario, Task
from unlearn.training import TrainingConfig


def l_teacher(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL( softmax(teacher / T) | softmax(logits / T) ), mean over the batch (B, classes)."""
    q, p = ((x / temperature).log_softmax(-1) for x in (logits, teacher))
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


class Scrubbing(Finetuning):
    """A step of either kind."""

    cfg: Scrub

    def __init__(self, cfg: Scrub, access: FullAccess) -> None:
        super().__init__(cfg, access, erasing=cfg.max_epochs)
        # Outside the module's children: Lightning must neither train nor move it.
        self.teachers: list[nn.Module] = [access.original]

    def losses(self, batch: Any) -> dict[str, Tensor]:
        erasing, rows = batch
        data, c = self.erased if erasing else self.retained, self.cfg
        x = self.images(data, rows)
        with torch.no_grad():
            teacher = forward(self.teachers[0], x)
        logits = forward(self.model, x)
        near = l_teacher(logits, teacher, c.temperature)
        if erasing:
            return {"loss": -near}
        ce = F.cross_entropy(logits, data.y[rows])
        return {"loss": c.gamma * ce + c.alpha * near, "retain": ce}


@BASELINES.register("scrub")
@dataclass
class Scrub(Finetuned):
    """First epochs: raise KL to f_o on D_e; every epoch: gamma CE + alpha KL to f_o on D_r.

    Kurmanji et al. 2023 (arXiv 2302.09880; meghdadk/SCRUB@98ffb11). Known error of copies: they
    minimise the sum of both. Here, as in the paper, each has its own steps, in turns.

    Attributes:
        max_epochs: in so many of the first epochs D_e has its turn.
        gamma, alpha, temperature: of the loss on D_r; T on D_e too.
    """

    stages: ClassVar[tuple[str, ...]] = ("scrub",)
    max_epochs: int = MISSING
    gamma: float = MISSING
    alpha: float = MISSING
    temperature: float = MISSING

    def check(self, scenario: Scenario) -> None:
        super().check(scenario)
        positive(self, "temperature")
        if not 0 <= self.max_epochs <= self.epochs:
            raise UserError(
                "baseline.max_epochs", f"{self.max_epochs} is not from 0 to epochs ({self.epochs})"
            )
        for key in ("gamma", "alpha"):
            if getattr(self, key) < 0:
                raise UserError(f"baseline.{key}", f"{getattr(self, key)!r} is below 0")

    def passes(self, training: TrainingConfig, task: Task) -> float:
        return 1.3 * super().passes(training, task)

    def unlearn(self, access: FullAccess) -> Outcome:
        module = Scrubbing(self, access)
        history = access.fit.run(module, module.batches, access.device)
        return Outcome(module.model.eval(), history)
