"""ascent: the cross entropy of the wrong label goes up (NegGrad)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.methods.base import METHODS
from unlearn.methods.steps import Losses, Objective, Stepwise, positive
from unlearn.problem import Problem


@METHODS.register("ascent")
@dataclass
class Ascent(Stepwise):
    """-min(CE(f(x), y), cutoff), mean over the shots, until no shot is called y.

    The baseline NegGrad of Golatkar et al. 2020a; SGD 1e-4 with momentum 0.9 in the public code of
    DELETE. Known error: with nothing to end it, it goes on long after the label is gone, and the
    whole model is lost. Here the steps end with the intention.

    Attributes:
        cutoff: nats, beyond which a shot is left alone.
    """

    name: str = "ascent"
    cutoff: float = 10.0

    def check_settings(self) -> None:
        super().check_settings()
        positive(self, "cutoff")

    def objective(self, problem: Problem, images: Tensor) -> Objective:
        def losses(model: nn.Module, rows: Tensor, _rng: torch.Generator) -> Losses:
            y = torch.full_like(rows, problem.target)
            ce = F.cross_entropy(model(images[rows]), y, reduction="none")
            return {"loss": -ce.clamp_max(self.cutoff).mean()}

        return Objective(losses)
