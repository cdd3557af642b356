"""Patches of the given images, shuffled between places."""

from __future__ import annotations

from dataclasses import dataclass

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
        size: of a square patch, in pixels; it divides the images' sides.
    """

    name: str = "patches"
    size: int = 8

    def images(self, problem: Problem, number: int, rng: torch.Generator) -> Tensor:
        height, width = problem.shape[1:]
        if height % self.size or width % self.size:
            raise UserError("proxy.size", f"{self.size} does not divide {height}x{width} images")
        cut = F.unfold(problem.shots, self.size, stride=self.size)  # (k, C size^2, places)
        places = cut.shape[2]
        patches = cut.transpose(1, 2).reshape(-1, cut.shape[1])
        chosen = torch.randint(len(patches), (number, places), device=patches.device, generator=rng)
        shuffled = patches[chosen].transpose(1, 2)
        return F.fold(shuffled, (height, width), self.size, stride=self.size)

    def check_settings(self) -> None:
        if self.size < 1:
            raise UserError("proxy.size", f"{self.size} is not a whole number from 1")
