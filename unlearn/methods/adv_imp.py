"""adv_imp: ascent on the shots, held back by adversarial copies and weights' importance (L2UL)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.engine.predict import evaluating
from unlearn.engine.seeding import seeded
from unlearn.methods.base import METHODS
from unlearn.methods.steps import Losses, Objective, Stepwise, at_least, positive
from unlearn.problem import Problem


@METHODS.register("adv_imp")
@dataclass
class AdvImp(Stepwise):
    """-CE(f(x), y) n_f/n + CE(f(x'), y') n_a/n + lambda/2 sum (1 - omega) (theta - theta_0)^2.

    x' are adversarial copies that f_o calls y', omega the importance of each weight on the shots
    (MAS, Aljundi et al. 2018), brought to [0, 1] tensor by tensor. Cha et al. 2024, "Learning to
    unlearn" (AAAI), the only one made for tens of images; SGD 1e-3 with momentum 0.9 and weight
    decay 1e-4, looked at after every step, until no shot is called y (csm9493/L2UL@5fb777b).

    Known errors: the public script replaces a drawn y' that is y by the middle class, and takes
    omega in train mode and from a batch's mean gradient. Here y' is drawn among the other classes,
    and attack and omega are in eval mode, omega image by image. Adversarial copies in train mode
    do great harm, hence ``batchnorm=frozen``.

    Attributes:
        eps: the radius of the attack, L2, pixels in [0, 1].
        step: of the attack; ``iterations`` of them.
        copies: adversarial ones of a shot.
        copies_in_step: at most so many of them in a step.
        weight: lambda.
    """

    name: str = "adv_imp"
    batch_size: int = 32
    weight_decay: float = 1e-4
    eps: float = 4.0
    step: float = 0.1
    iterations: int = 100
    copies: int = 20
    copies_in_step: int = 256
    weight: float = 1.0

    def check_settings(self) -> None:
        super().check_settings()
        positive(self, "eps", "step")
        at_least(self, 1, "iterations", "copies", "copies_in_step")
        at_least(self, 0, "weight")
        if self.batchnorm == "train":
            at_least(self, 2, "copies_in_step")

    def passes(self, shots: int) -> float:
        copies = min(self.copies_in_step, self.copies * min(shots, self.batch_size))
        steps = super().passes(shots) / max(1, min(shots, self.batch_size))
        return super().passes(shots) + copies * steps + shots * self.copies * self.iterations

    def objective(self, problem: Problem, images: Tensor) -> Objective:
        original = problem.original
        labels = self.labels(problem, len(images))
        rng = seeded(problem.seed, self.name, "attack", device=images.device)
        sources = images.repeat_interleave(self.copies, 0)
        attacked = self.attacked(original, sources, labels, rng)
        kept = {n: 1 - w for n, w in importance(original, images).items()}
        start = floating(original)

        def losses(model: nn.Module, rows: Tensor, rng: torch.Generator) -> Losses:
            copies = rows[:, None] * self.copies + torch.arange(self.copies, device=rows.device)
            order = torch.randperm(copies.numel(), device=rows.device, generator=rng)
            copies = copies.flatten()[order[: self.copies_in_step]]
            y = torch.full_like(rows, problem.target)
            forget = -F.cross_entropy(model(images[rows]), y)
            keep = F.cross_entropy(model(attacked[copies]), labels[copies])
            now = dict(model.named_parameters())
            far = [(kept[n] * (now[n] - start[n]).square()).sum() for n in start]
            number = len(rows) + len(copies)
            loss = (len(rows) * forget + len(copies) * keep) / number
            return {
                "loss": loss + self.weight / 2 * torch.stack(far).sum(),
                "forget": forget.detach(),
                "adversarial": keep.detach(),
            }

        return Objective(losses)

    def labels(self, problem: Problem, images: int) -> Tensor:
        """y' of all copies, image by image: (images * copies,), uniform over the other classes."""
        rng = seeded(problem.seed, self.name, "labels")
        away = torch.randint(1, problem.classes, (images * self.copies,), generator=rng)
        return ((problem.target + away) % problem.classes).to(problem.device)

    def attacked(
        self, original: nn.Module, images: Tensor, labels: Tensor, rng: torch.Generator
    ) -> Tensor:
        """L2-PGD towards the labels, from a random place in the ball: (n, C, H, W) in [0, 1]."""
        found = []
        with evaluating(original):
            for x, y in zip(images.split(256), labels.split(256), strict=True):
                place = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=rng)
                radius = torch.rand(len(x), device=x.device, dtype=x.dtype, generator=rng)
                delta = unit(place) * self.eps * radius[:, None, None, None]
                delta = (x + delta).clamp(0, 1) - x
                for _ in range(self.iterations):
                    at = (x + delta).requires_grad_()
                    loss = F.cross_entropy(original(at), y, reduction="sum")
                    (gradient,) = torch.autograd.grad(loss, at)
                    delta = (x + delta - self.step * unit(gradient)).clamp(0, 1) - x
                    delta = unit(delta) * norms(delta).clamp_max(self.eps)
                found.append(x + delta)
        return torch.cat(found)


def norms(x: Tensor) -> Tensor:
    """L2 norms of images (n, C, H, W): (n, 1, 1, 1)."""
    found: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return found


def unit(x: Tensor) -> Tensor:
    """Images (n, C, H, W) over their norms; what is 0 stays so."""
    return x / norms(x).clamp_min(1e-12)


def importance(original: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Mean over images of |d |f(x)|^2 / d theta|, by parameter, each tensor brought to [0, 1]."""
    weights = floating(original)
    found = {n: torch.zeros_like(p) for n, p in weights.items()}
    taken = {n: p.requires_grad_() for n, p in weights.items()}
    with evaluating(original):
        for image in images:
            squared = torch.func.functional_call(original, taken, (image[None],)).square().sum()
            gradients = torch.autograd.grad(squared, list(taken.values()), allow_unused=True)
            for name, gradient in zip(taken, gradients, strict=True):
                if gradient is not None:
                    found[name] += gradient.abs() / len(images)
    return {n: (w - w.min()) / (w.max() - w.min()).clamp_min(1e-30) for n, w in found.items()}


def floating(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that are no whole numbers, by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.is_floating_point()}
