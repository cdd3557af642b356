"""mu_mis: the input's influence on the label goes down, on another class up (MU-Mis)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearn.methods.base import METHODS
from unlearn.methods.steps import History, Losses, Objective, Stepwise, positive
from unlearn.problem import Problem


@METHODS.register("mu_mis")
@dataclass
class MUMis(Stepwise):
    """mean( |df_y/dx|^2 - |df_c/dx|^2 ) over the shots, f the logits, c another class, drawn anew.

    "MU-Mis" (ICLR 2026, arXiv 2402.15109). Its own end: |df_c/dx| has passed its minimum and
    exceeds ``delta`` times its first value. Neither that factor nor the learning rate was found: by
    default the steps end with the intention, as for all. Known error: the loss is a derivative
    itself, and layers that write over their input (``ReLU(inplace=True)``) may not be
    differentiated twice. Here they do not write over it.

    Attributes:
        delta: of its own end; None: once the intention holds.
    """

    name: str = "mu_mis"
    delta: float | None = None

    def check_settings(self) -> None:
        super().check_settings()
        if self.delta is not None:
            positive(self, "delta")

    def objective(self, problem: Problem, images: Tensor) -> Objective:
        classes, y = problem.classes, problem.target

        def losses(model: nn.Module, rows: Tensor, rng: torch.Generator) -> Losses:
            apart(model)
            x = images[rows].clone().requires_grad_()
            logits = model(x)
            away = torch.randint(1, classes, (len(x),), device=x.device, generator=rng)
            own = influence(logits[:, y], x)
            other = influence(logits.gather(1, ((y + away) % classes)[:, None])[:, 0], x)
            loss = (own.square() - other.square()).mean()
            return {"loss": loss, "own": own.detach().mean(), "other": other.detach().mean()}

        return Objective(losses, over=None if self.delta is None else self.over)

    def over(self, history: History) -> bool:
        """Whether |df_c/dx| has passed its minimum and exceeds ``delta`` times its first value."""
        seen = [row["other"] for row in history]
        assert self.delta is not None
        return seen[-1] > min(seen) and seen[-1] > self.delta * seen[0]


def influence(outputs: Tensor, x: Tensor) -> Tensor:
    """|d output / dx| of each image, (n,); differentiable."""
    (gradient,) = torch.autograd.grad(outputs.sum(), x, create_graph=True)
    norms: Tensor = torch.linalg.vector_norm(gradient, dim=(1, 2, 3))
    return norms


def apart(model: nn.Module) -> None:
    """Let no layer write over its input."""
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
