"""Fisher: noise on the weights that D_r needs least (Golatkar et al. 2020a)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from unlearn.baselines.base import BASELINES, Baseline, FullAccess, Outcome, positive
from unlearn.baselines.diagonal import fisher_diagonal, passes_of, some
from unlearn.engine.seeding import seeded
from unlearn.engine.stages import later
from unlearn.models.adapt import copied
from unlearn.models.probe import head_of
from unlearn.scenarios import Scenario, Task
from unlearn.training import TrainingConfig

log = logging.getLogger(__name__)

DAMPING = 1e-8


@BASELINES.register("fisher")
@dataclass
class Fisher(Baseline):
    """w + sqrt(variance) N(0, 1), the variance from the inverse of the Fisher diagonal over D_r.

    The numbers are those of the authors' public code. Its further step for whole classes, the
    erased class's row of the last layer set to 0, is left out: that alone erases a class (see
    ``logit_mask``), and the paper's numbers for Fisher do not show it.

    Attributes:
        alpha: variance for an inverse diagonal of 1.
        clamp, clamp_last: the largest inverse diagonal; in the last layer.
        boost: factor on the variance of the last layer and of the one-dimensional parameters.
        batch_size: images per pass; the result does not depend on it.
        images: how many of D_r, drawn by the seed, the diagonal is taken on; None: all.
    """

    aim: ClassVar[str | None] = "std"
    stages: ClassVar[tuple[str, ...]] = ("fisher",)
    alpha: float = MISSING
    clamp: float = MISSING
    clamp_last: float = MISSING
    boost: float = MISSING
    batch_size: int = MISSING
    images: int | None = later(None)

    def check(self, scenario: Scenario) -> None:
        positive(self, "alpha", "clamp", "clamp_last", "boost", "batch_size", "images")

    def passes(self, training: TrainingConfig, task: Task) -> float:
        return passes_of(self.images, int((~task.forget).sum()), len(task.classes))

    def unlearn(self, access: FullAccess) -> Outcome:
        diagonal = self.diagonal(access.original, access.task, access.seed)
        return Outcome(self.noised(access.original, access.task, diagonal, access.seed))

    def diagonal(self, original: nn.Module, task: Task, seed: int) -> dict[str, Tensor]:
        """The Fisher diagonal over D_r, for every parameter by its name."""
        retained = some(task.train.x[~task.forget], self.images, seed)
        log.info("fisher: the diagonal over %d images of D_r", len(retained))
        return fisher_diagonal(original, retained, self.batch_size)

    @torch.no_grad()
    def noised(
        self, original: nn.Module, task: Task, diagonal: Mapping[str, Tensor], seed: int
    ) -> nn.Module:
        """A copy of the original in eval mode, noise added to every parameter."""
        model = copied(original).eval()
        device = next(model.parameters()).device
        head = head_of(model, task.train.x[:1].to(device, torch.get_default_dtype()) / 255)
        rng = seeded(seed, "fisher")
        for name, parameter in model.named_parameters():
            last = name.rpartition(".")[0] == head
            deviation = self.variance(diagonal[name], last).sqrt()
            # Drawn on the CPU: the same noise on any device.
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float32)
            parameter.add_((deviation * noise.to(device)).to(parameter.dtype))
        return model

    def variance(self, diagonal: Tensor, last: bool) -> Tensor:
        """One parameter's variance, averaged over a weight's input channels.

        Args:
            diagonal: its Fisher diagonal, (out, in, ...) or (out,).
            last: whether it belongs to the last layer.
        """
        inverse = (1 / (diagonal + DAMPING)).clamp_max(self.clamp_last if last else self.clamp)
        if inverse.dim() > 1:
            inverse = inverse.mean(1, keepdim=True).expand_as(diagonal)
        return self.alpha * (self.boost if last or inverse.dim() == 1 else 1.0) * inverse
