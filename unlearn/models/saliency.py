"""Weights that may move and weights that may not, told apart by gradients (SalUn's mask)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.engine.predict import evaluating


@dataclass(frozen=True)
class Masked:
    """Puts back the weights of a model that shall not move; called with the model after a step.

    Put back, and not their gradients set to 0: weight decay and momentum would move them still.

    Attributes:
        start: all the weights, by name, as they were.
        moving: bool of the same shapes.
    """

    start: Mapping[str, Tensor]
    moving: Mapping[str, Tensor]

    @classmethod
    def by_gradient(cls, model: nn.Module, images: Tensor, y: Tensor, share: float) -> Masked:
        """The ``share`` of all weights with the largest absolute gradient moves.

        It is the gradient of the cross entropy of labels y (n,) on images (n, C, H, W), summed, in
        eval mode (SalUn, Fan et al. 2024).
        """
        start = {n: p.detach().clone() for n, p in model.named_parameters()}
        sizes = {n: torch.zeros_like(p) for n, p in start.items() if p.is_floating_point()}
        weights = {n: start[n].clone().requires_grad_() for n in sizes}
        for x, labels in zip(images.split(256), y.split(256), strict=True):
            with evaluating(model), torch.enable_grad():
                logits = torch.func.functional_call(model, weights, (x,))
                loss = F.cross_entropy(logits, labels, reduction="sum")
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                sizes[name] += 0 if gradient is None else gradient
        flat = torch.cat([g.abs().flatten() for g in sizes.values()])
        moving = torch.zeros_like(flat, dtype=torch.bool)
        first = flat.argsort(descending=True, stable=True)  # of equals, like those of 0, the first
        moving[first[: max(1, round(share * len(flat)))]] = True
        parts = moving.split([g.numel() for g in sizes.values()])
        shaped = [part.view_as(g) for part, g in zip(parts, sizes.values(), strict=True)]
        return cls(start, dict(zip(sizes, shaped, strict=True)))

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.moving:
                parameter.copy_(torch.where(self.moving[name], parameter, self.start[name]))
