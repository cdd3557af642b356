"""Uniform noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unlearn.problem import Problem
from unlearn.standins.base import STANDINS, StandIn


@STANDINS.register("noise")
@dataclass
class Noise(StandIn):
    """Every pixel is drawn by itself, uniformly in [0, 1]."""

    name: str = "noise"

    def images(self, problem: Problem, number: int, rng: torch.Generator) -> Tensor:
        return torch.rand(number, *problem.shape, device=problem.device, generator=rng)
