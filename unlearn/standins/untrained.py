"""Samples of an untrained generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unlearn.inversion import InversionConfig, build_generator
from unlearn.problem import Problem
from unlearn.standins.base import STANDINS, StandIn

BATCH = 512


@STANDINS.register("untrained")
@dataclass
class Untrained(StandIn):
    """A freshly initialised generator's images, with the statistics of each batch.

    Attributes:
        width: of the generator.
    """

    name: str = "untrained"
    width: int = 16

    def images(self, problem: Problem, number: int, rng: torch.Generator) -> Tensor:
        cfg = InversionConfig(width=self.width)
        generator = build_generator(cfg, problem.classes, problem.shape, problem.seed)
        generator = generator.to(problem.device).train()
        z = torch.randn(number, generator.z, device=problem.device, generator=rng)
        y = torch.arange(number, device=problem.device) % generator.conditions
        parts = zip(z.split(BATCH), y.split(BATCH), strict=True)
        return torch.cat([generator(*part) for part in parts])
