"""Ours_unt: privacy protection (Section 4.3). D~_e is answered as an untrained network would."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearn.engine.seeding import seeded_init
from unlearn.relearning.intentions.base import INTENTIONS, Given, Intention


@INTENTIONS.register("unt")
@dataclass
class Unt(Intention):
    """Labels are the softmax of one freshly initialised network, f(.; w_unt), and stay fixed."""

    name: str = "unt"
    scrub_epochs: int = 2

    @torch.no_grad()
    def relabel(self, images: Tensor, given: Given) -> Tensor | None:
        if given.untrained is None:
            given.untrained = untrained(given.original, given.seed)
        fresh = given.untrained
        return torch.cat([fresh(part).softmax(-1) for part in images.split(256)])


def untrained(model: nn.Module, seed: int) -> nn.Module:
    """A copy with every parameter drawn anew, in eval mode.

    Modules draw by their own ``reset_parameters``; parameters that no such method covers are
    drawn from a normal distribution of their own standard deviation.
    """
    fresh = copy.deepcopy(model)
    with seeded_init(seed, "untrained"), torch.no_grad():
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                spread = float(parameter.std(correction=0))
                parameter.normal_(0, spread)
    return fresh.eval()
