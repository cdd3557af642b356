"""ssd: weights that matter more to D_e than to D are dampened (SSD)."""

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
from unlearn.engine.stages import later
from unlearn.models.adapt import copied
from unlearn.scenarios import Scenario, Task
from unlearn.training import TrainingConfig

log = logging.getLogger(__name__)


@BASELINES.register("ssd")
@dataclass
class SSD(Baseline):
    """Where F_e > a F_D: theta <- theta min(l F_D / F_e, 1), F the Fisher diagonal. No steps.

    "Selective synaptic dampening", Foster et al. 2024 (AAAI; if-loops/selective-synaptic-dampening
    @cdfdc0e). Known error: the public code squares a batch's mean gradient, which is no Fisher
    information and depends on the batch size. Here F is exact, image by image, over all labels that
    the model may answer (``diagonal``).

    Attributes:
        alpha: a, how much more a weight must matter to D_e.
        dampening: l.
        batch_size: images per pass; the result does not depend on it.
        images: how many of D, drawn by the seed, its diagonal is taken on; None: all.
    """

    uses: ClassVar[frozenset[str]] = frozenset(
        {"shot", "seed"}
    )  # the seed draws the shots and ``images``
    aim: ClassVar[str | None] = "std"
    stages: ClassVar[tuple[str, ...]] = ("ssd",)
    alpha: float = MISSING
    dampening: float = MISSING
    batch_size: int = MISSING
    images: int | None = later(None)

    def check(self, scenario: Scenario) -> None:
        positive(self, "alpha", "dampening", "batch_size", "images")

    def passes(self, training: TrainingConfig, task: Task) -> float:
        return passes_of(self.images, len(task.train), len(task.classes))

    def unlearn(self, access: FullAccess) -> Outcome:
        x = access.task.train.x
        of_all = some(x, self.images, access.seed)
        log.info("ssd: the diagonal over %d images of D", len(of_all))
        erased, everything = (
            fisher_diagonal(access.original, part, self.batch_size)
            for part in (x[access.given], of_all)
        )
        return Outcome(self.dampened(access.original, erased, everything))

    @torch.no_grad()
    def dampened(
        self, original: nn.Module, erased: Mapping[str, Tensor], everything: Mapping[str, Tensor]
    ) -> nn.Module:
        """A copy of f_o in eval mode.

        Args:
            erased, everything: the diagonals on D_e and on D, by parameter.
        """
        model = copied(original).eval()
        for name, parameter in model.named_parameters():
            f_e, f_d = erased[name], everything[name]
            factor = (self.dampening * f_d / f_e.clamp_min(1e-300)).clamp_max(1)
            factor = torch.where(f_e > self.alpha * f_d, factor, 1.0)
            parameter.mul_(factor.to(parameter.dtype))
        return model
