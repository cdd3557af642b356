"""salun: random labels on D_e, then D_r, while only the salient weights move (SalUn)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor

from unlearn.baselines.base import BASELINES, FullAccess, Outcome
from unlearn.baselines.neutralized import contrastive_labels
from unlearn.baselines.steps import Finetuned, Finetuning
from unlearn.errors import UserError
from unlearn.models.saliency import Masked
from unlearn.scenarios import Scenario


class Salient(Finetuning):
    """Cross entropy of random labels on D_e, of the right ones on D_r, in turns."""

    cfg: SalUn

    def __init__(self, cfg: SalUn, access: FullAccess) -> None:
        super().__init__(cfg, access, erasing=cfg.epochs)
        x = self.erased.x.to(torch.get_default_dtype()) / 255
        self.masked = Masked.by_gradient(access.original, x, self.erased.y, cfg.moving)

    def losses(self, batch: Any) -> dict[str, Tensor]:
        erasing, rows = batch
        data = self.erased if erasing else self.retained
        logits, y = self.logits(data, rows), data.y[rows]
        if erasing:
            y = contrastive_labels(y, logits.shape[1], self.rng)
        return {"loss": F.cross_entropy(logits, y)}

    def on_train_batch_end(self, *_: Any) -> None:
        self.masked(self.model)


@BASELINES.register("salun")
@dataclass
class SalUn(Finetuned):
    """CE(f(x), random label) on D_e, then CE on D_r, in every epoch; half of the weights moves.

    It is the half with the largest absolute gradient of CE(f_o) on D_e. Fan et al. 2024 (ICLR;
    OPTML-Group/Unlearn-Saliency). Known errors: weight decay and momentum move weights that the
    mask keeps, where only gradients are masked; a label drawn among all classes may be the image's
    own. Here the weights that are kept are put back after every step, and the label is another one.

    Attributes:
        moving: the share of weights that may move.
    """

    stages: ClassVar[tuple[str, ...]] = ("salun",)
    moving: float = MISSING

    def check(self, scenario: Scenario) -> None:
        super().check(scenario)
        if not 0 < self.moving <= 1:
            raise UserError("baseline.moving", f"{self.moving!r} is not a share in (0, 1]")

    def unlearn(self, access: FullAccess) -> Outcome:
        module = Salient(self, access)
        history = access.fit.run(module, module.batches, access.device)
        return Outcome(module.model.eval(), history)
