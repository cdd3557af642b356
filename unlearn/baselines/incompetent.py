"""Incompetent teacher (Chundawat et al. 2022a, "Can bad teaching induce forgetting?")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor, nn

from unlearn.baselines.base import BASELINES, Baseline, FullAccess, Outcome, batch_of_two, positive
from unlearn.data import Images
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import LossModule, ShuffledRows
from unlearn.engine.precision import forward
from unlearn.engine.seeding import seeded
from unlearn.errors import UserError, choices
from unlearn.models.adapt import copied
from unlearn.models.probe import freeze_batchnorm
from unlearn.scenarios import Scenario, Task
from unlearn.training import TrainingConfig


def l_teachers(logits: Tensor, competent: Tensor, incompetent: Tensor, forget: Tensor) -> Tensor:
    """KL to the incompetent teacher on D_e and to the competent one on D_r, mean over the batch.

    "batchmean", as the divergence is defined: the reduction "mean" would divide by the classes
    too.

    Args:
        logits: the student's (B, classes); ``competent``, ``incompetent`` the teachers'.
        forget: (B,) bool, D_e.
    """
    teacher = torch.where(forget[:, None], incompetent, competent)
    return F.kl_div(
        logits.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
    )


class BadTeaching(LossModule):
    """The student's steps over D_e and a part of D_r."""

    stage, settings = "incompetent", "baseline"

    def __init__(
        self,
        cfg: Incompetent,
        student: nn.Module,
        teachers: tuple[nn.Module, nn.Module],
        data: Images,
        forget: Tensor,
        augment: Augment,
        seed: int,
    ) -> None:
        self.rng = seeded(seed, "incompetent", device=data.x.device)
        self.batches = ShuffledRows(len(data), cfg.batch_size, cfg.epochs, self.rng)
        super().__init__(len(self.batches))
        self.cfg, self.model, self.data, self.forget = cfg, student, data, forget
        self.competent, self.incompetent = teachers
        self.augment = augment

    def losses(self, batch: Any) -> dict[str, Tensor]:
        x = self.augment(self.data.x[batch], self.rng)
        with torch.no_grad():
            good, bad = forward(self.competent, x), forward(self.incompetent, x)
        return {"loss": l_teachers(forward(self.model, x), good, bad, self.forget[batch])}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.model.parameters(), lr=self.cfg.lr, fused=self.fused)


@BASELINES.register("incompetent")
@dataclass
class Incompetent(Baseline):
    """A copy of f_o imitates a randomly initialised network on D_e and f_o on some of D_r.

    Attributes:
        retained: the share of D_r that is used.
        epochs, batch_size, lr: of Adam.
        batchnorm: ``train`` or ``frozen`` running statistics of the student; the teachers are in
            eval mode.
    """

    aim: ClassVar[str | None] = "unt"
    stages: ClassVar[tuple[str, ...]] = ("incompetent",)
    retained: float = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    batchnorm: str = MISSING

    def check(self, scenario: Scenario) -> None:
        positive(self, "epochs", "lr")
        batch_of_two(self.batch_size)
        if not 0 < self.retained <= 1:
            raise UserError("baseline.retained", f"{self.retained!r} is not a share in (0, 1]")
        if self.batchnorm not in ("train", "frozen"):
            raise choices("baseline.batchnorm", self.batchnorm, ("train", "frozen"))

    def passes(self, training: TrainingConfig, task: Task) -> float:
        return 1.7 * self.epochs * self.retained * len(task.train)

    def unlearn(self, access: FullAccess) -> Outcome:
        task, device = access.task, access.device
        kept = (~task.forget).nonzero()[:, 0]
        order = torch.randperm(len(kept), generator=seeded(access.seed, "incompetent/retained"))
        number = max(1, round(self.retained * len(kept)))
        rows = torch.cat([task.forget.nonzero()[:, 0], kept[order[:number]]])
        data = task.train[rows]
        student = copied(access.original).requires_grad_(True).train()
        if self.batchnorm == "frozen":
            freeze_batchnorm(student)
        module = BadTeaching(
            self,
            student,
            (access.original, access.fresh().to(device).eval()),
            Images(data.x.to(device), data.y.to(device)),
            task.forget[rows].to(device),
            access.augment,
            access.seed,
        )
        history = access.fit.run(module, module.batches, device)
        return Outcome(student.eval(), history)
