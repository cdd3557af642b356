"""boundary_shrink: each shot gets the nearest other class (Boundary Shrink)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.engine.predict import evaluating
from unlearn.methods.base import METHODS, answered
from unlearn.methods.steps import Losses, Objective, Stepwise, positive
from unlearn.problem import Problem


@METHODS.register("boundary_shrink")
@dataclass
class BoundaryShrink(Stepwise):
    """CE(f(x), argmax over c other than y of f_o(x_adv)), until no shot is called y.

    x_adv = x + eps sign(d CE(f_o(x), y) / dx), within [0, 1]. Chen et al. 2023, "Boundary
    unlearning" (CVPR), made for whole classes; SGD 1e-5 with momentum 0.9, 10 epochs, batches of 64
    (TY-LEE-KR/Boundary-Unlearning-Code@19f9f23). Known error: the public code takes the
    normalisation off by other constants than the data's, and for three channels only. Here a model
    takes images in [0, 1] of any channels, and so does the attack.

    Attributes:
        eps: the step of the attack, in units of a pixel's range.
    """

    name: str = "boundary_shrink"
    batch_size: int = 64
    eps: float = 0.1

    def check_settings(self) -> None:
        super().check_settings()
        positive(self, "eps")

    def objective(self, problem: Problem, images: Tensor) -> Objective:
        logits = answered(problem.original, self.attacked(problem, images))
        logits[:, problem.target] = -torch.inf
        nearest = logits.argmax(-1)

        def losses(model: nn.Module, rows: Tensor, _rng: torch.Generator) -> Losses:
            return {"loss": F.cross_entropy(model(images[rows]), nearest[rows])}

        return Objective(losses)

    def attacked(self, problem: Problem, images: Tensor) -> Tensor:
        """x_adv, (n, C, H, W) in [0, 1]."""
        found = []
        for part in images.split(256):
            x = part.clone().requires_grad_()
            y = torch.full((len(x),), problem.target, device=x.device)
            with evaluating(problem.original):
                loss = F.cross_entropy(problem.original(x), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            found.append((part + self.eps * gradient.sign()).clamp(0, 1))
        return torch.cat(found)
