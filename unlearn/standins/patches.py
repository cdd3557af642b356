"""Patches of the given images, shuffled between places."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearn.errors import UserError
from unlearn.problem import Problem
from unlearn.standins.base import STANDINS, StandIn


@STANDINS.register("patches")
@dataclass
class Patches(StandIn):
    """Each place of an image gets a patch of any given image from any place.

    Attributes:
        size: of a square patch, at most, in pixels; the largest that divides the images' sides.
    """

    name: str = "patches"
    size: int = 8

    def images(self, problem: Problem, number: int, rng: torch.Generator) -> Tensor:
        height, width = problem.shape[1:]
        both = gcd(height, width)
        side = max(d for d in range(1, self.size + 1) if both % d == 0)
        cut = F.unfold(problem.shots, side, stride=side)  # (k, C side^2, places)
        places = cut.shape[2]
        patches = cut.transpose(1, 2).reshape(-1, cut.shape[1])
        chosen = torch.randint(len(patches), (number, places), device=patches.device, generator=rng)
        shuffled = patches[chosen].transpose(1, 2)
        return F.fold(shuffled, (height, width), side, stride=side)

    def check_settings(self) -> None:
        if self.size < 1:
            raise UserError("proxy.size", f"{self.size} is not a whole number from 1")
