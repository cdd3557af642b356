"""finetune: f_o goes on learning D_r alone, and forgets the rest as it may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from unlearn.baselines.base import BASELINES, FullAccess, Outcome
from unlearn.baselines.steps import Finetuned, Finetuning


class Continued(Finetuning):
    """Cross entropy on D_r."""

    def losses(self, batch: Any) -> dict[str, Tensor]:
        _, rows = batch
        logits = self.logits(self.retained, rows)
        return {"loss": F.cross_entropy(logits, self.retained.y[rows])}


@BASELINES.register("finetune")
@dataclass
class Finetune(Finetuned):
    """CE(D_r) from f_o (the baseline of Golatkar et al. 2020a). Known error: where D_e is like D_r,
    nothing is forgotten."""

    stages: ClassVar[tuple[str, ...]] = ("finetune",)

    def unlearn(self, access: FullAccess) -> Outcome:
        module = Continued(self, access, erasing=0)
        history = access.fit.run(module, module.batches, access.device)
        return Outcome(module.model.eval(), history)
