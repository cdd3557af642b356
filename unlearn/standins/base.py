"""What a stand-in is: images without a label, on which f_o is the teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unlearn.engine.seeding import seeded
from unlearn.engine.stages import Stage
from unlearn.engine.store import Entry
from unlearn.filtration import FiltrationConfig, Proxy
from unlearn.problem import Problem
from unlearn.registry import Registry


@dataclass
class StandIn(ABC):
    """A way to make images for D~_r. One file with one registered class and one YAML adds another.

    D~_e is then the copies of the given images alone.

    Attributes:
        VERSION: raised whenever its code gives other images than before.
    """

    VERSION: ClassVar[int] = 1
    name: str = ""

    @abstractmethod
    def images(self, problem: Problem, number: int, rng: torch.Generator) -> Tensor:
        """``number`` images (n, C, H, W) in [0, 1], on the device of the problem.

        Raises:
            UserError: if there can be none.
        """

    def check_settings(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: naming the setting and what it allows.
        """


class StandInStage(Stage):
    """A proxy of which nothing is target-like: as many images as filtration would keep."""

    name = "standin"

    def __init__(self, made_by: StandIn, cfg: FiltrationConfig) -> None:
        self.made_by, self.cfg, self.VERSION = made_by, cfg, made_by.VERSION

    def key(self) -> dict[str, Any]:
        size = {"per_condition": self.cfg.per_condition, "whole_class": self.cfg.whole_class}
        return {**asdict(self.made_by), **size}

    @torch.no_grad()
    def make(self, problem: Problem) -> Entry:
        """Make the images; f_o's softmax is their soft label."""
        number = self.cfg.per_condition * (problem.classes + len(problem.targets))
        rng = seeded(problem.seed, "standin", device=problem.device)
        images = (self.made_by.images(problem, number, rng) * 255).round().to(torch.uint8)
        parts = images.split(self.cfg.batch_size)
        p = torch.cat(
            [problem.original(x.to(problem.shots.dtype) / 255).softmax(-1) for x in parts]
        )
        p, nothing = p.cpu(), torch.zeros(number, dtype=torch.bool)
        distances = torch.full((number,), torch.inf)
        proxy = Proxy(
            images.cpu(),
            p,
            p.argmax(-1),
            distances,
            torch.zeros(len(problem.shots)),
            nothing,
            nothing.clone(),
            torch.tensor(0.0),
            torch.ones(1),
            torch.tensor(self.cfg.whole_class),
        )
        return proxy.tensors(), {}


STANDINS: Registry[type[StandIn]] = Registry("proxy")
