"""finetune_shots: the shots are learnt with their right label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.errors import UserError
from unlearn.methods.base import METHODS
from unlearn.methods.steps import Losses, Objective, Stepwise
from unlearn.problem import Problem


@METHODS.register("finetune_shots")
@dataclass
class FinetuneShots(Stepwise):
    """CE(f(x), the right label), mean over the shots, until all are called by it; for ``cor``.

    What anybody would try first. Known error: in train mode a few steps on images of one class
    replace BatchNorm's statistics, and the model is lost for another reason than what it learnt.
    """

    needs_correct_label: ClassVar[bool] = True
    name: str = "finetune_shots"

    def objective(self, problem: Problem, images: Tensor) -> Objective:
        right = problem.correct
        if right is None:
            raise UserError("correct_labels", f"{self.name} needs the right label of the shots")

        def losses(model: nn.Module, rows: Tensor, _rng: torch.Generator) -> Losses:
            y = torch.full_like(rows, right)
            return {"loss": F.cross_entropy(model(images[rows]), y)}

        return Objective(losses)
