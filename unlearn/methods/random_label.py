"""random_label: another label for each shot."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.engine.seeding import seeded
from unlearn.errors import UserError
from unlearn.methods.base import METHODS
from unlearn.methods.steps import Losses, Objective, Stepwise
from unlearn.models.saliency import Masked
from unlearn.problem import Problem


@METHODS.register("random_label")
@dataclass
class RandomLabel(Stepwise):
    """CE(f(x), r), r another label than y, drawn once for each shot, until no shot is called y.

    Golatkar et al. 2020a. With ``moving=0.5`` only the half of the weights moves on which the cross
    entropy of y on the shots has the largest absolute gradient (SalUn, Fan et al. 2024, with
    nothing retained). Known errors: a label that is drawn among all classes may be y itself, which
    is then taught; weight decay and momentum move what the mask shall keep. Here y is left out, and
    the weights that are kept are put back after every step.

    Attributes:
        moving: the share of weights that may move, in (0, 1].
    """

    name: str = "random_label"
    moving: float = 1.0

    def check_settings(self) -> None:
        super().check_settings()
        if not 0 < self.moving <= 1:
            raise UserError("baseline.moving", f"{self.moving!r} is not a share in (0, 1]")

    def objective(self, problem: Problem, images: Tensor) -> Objective:
        rng = seeded(problem.seed, self.name, "labels")
        away = torch.randint(1, problem.classes, (len(images),), generator=rng)
        labels = ((problem.target + away) % problem.classes).to(images.device)

        def losses(model: nn.Module, rows: Tensor, _rng: torch.Generator) -> Losses:
            return {"loss": F.cross_entropy(model(images[rows]), labels[rows])}

        if self.moving == 1:
            return Objective(losses)
        y = torch.full_like(labels, problem.target)
        return Objective(losses, Masked.by_gradient(problem.original, images, y, self.moving))
