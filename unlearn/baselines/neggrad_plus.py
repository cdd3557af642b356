"""neggrad_plus: down on D_r and up on D_e, in one step (NegGrad+)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor

from unlearn.baselines.base import BASELINES, FullAccess, Outcome
from unlearn.baselines.steps import Finetuned, Finetuning
from unlearn.engine.fitting import batched
from unlearn.errors import UserError
from unlearn.scenarios import Scenario, Task
from unlearn.training import TrainingConfig


class Descending(Finetuning):
    """a CE(D_r) - (1 - a) CE(D_e), as many images of D_e in a step as of D_r, or all of them."""

    cfg: NegGradPlus

    def __init__(self, cfg: NegGradPlus, access: FullAccess) -> None:
        super().__init__(cfg, access, erasing=0)
        self.erasing = self.endless()

    def endless(self) -> Iterator[Tensor]:
        """Batches of D_e, shuffled again whenever they are through."""
        while True:
            device = self.rng.device
            order = torch.randperm(len(self.erased), device=device, generator=self.rng)
            yield from batched(order, self.cfg.batch_size)

    def losses(self, batch: Any) -> dict[str, Tensor]:
        _, rows = batch
        erased = next(self.erasing)
        retain = F.cross_entropy(self.logits(self.retained, rows), self.retained.y[rows])
        forget = F.cross_entropy(self.logits(self.erased, erased), self.erased.y[erased])
        loss = self.cfg.alpha * retain - (1 - self.cfg.alpha) * forget
        return {"loss": loss, "retain": retain, "forget": forget}


@BASELINES.register("neggrad_plus")
@dataclass
class NegGradPlus(Finetuned):
    """a CE(D_r) - (1 - a) CE(D_e) (Kurmanji et al. 2023, the baseline of SCRUB).

    Known error: the second term has no bound. A smaller a than published loses the whole model.

    Attributes:
        alpha: a, in (0, 1].
    """

    stages: ClassVar[tuple[str, ...]] = ("neggrad_plus",)
    alpha: float = MISSING

    def check(self, scenario: Scenario) -> None:
        super().check(scenario)
        if not 0 < self.alpha <= 1:
            raise UserError("baseline.alpha", f"{self.alpha!r} is not in (0, 1]")

    def passes(self, training: TrainingConfig, task: Task) -> float:
        return 2 * super().passes(training, task)

    def unlearn(self, access: FullAccess) -> Outcome:
        module = Descending(self, access)
        history = access.fit.run(module, module.batches, access.device)
        return Outcome(module.model.eval(), history)
