"""No further from f_o than the intention needs: when to stop, and how much of the way to go."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from unlearn.engine.precision import forward
from unlearn.engine.predict import evaluating
from unlearn.engine.seeding import seeded
from unlearn.problem import Problem
from unlearn.relearning.intentions import Given, Intention

COPIES = 8  # augmented ones of each shot
EVERY = 10  # steps between two looks
GRID = 20  # steps from f_o's weights to the result's


class Held:
    """Where an intention holds: on given images, shares in [0, 1].

    Args:
        given: what the intention may look at; of several labels of D_e, for each of them.
        images: (n, C, H, W) in [0, 1].
        targets: of several labels, the one that each image is like, (n,).
    """

    def __init__(
        self,
        intention: Intention,
        given: Given | Sequence[Given],
        images: Tensor,
        targets: Tensor | None = None,
    ) -> None:
        self.intention, self.images, self.targets = intention, images, targets
        self.givens = [given] if isinstance(given, Given) else list(given)

    @torch.no_grad()
    def share(self, model: nn.Module) -> float:
        """On how many of the images a model answers as intended."""
        with evaluating(model):
            logits = torch.cat([forward(model, part) for part in self.images.split(256)])
        if self.targets is None or len(self.givens) == 1:
            return float(self.intention.held(logits, self.givens[0]).float().mean())
        held = [self.intention.held(logits[self.targets == g.target], g) for g in self.givens]
        return float(torch.cat(held).float().mean())


def augmented_shots(problem: Problem) -> tuple[Tensor, Tensor]:
    """Copies of the shots, augmented in ways that relearning does not see, and their labels."""
    rng = seeded(problem.seed, "held out", device=problem.device)
    copies = problem.augment(torch.cat([problem.shots] * COPIES), rng)
    return copies, torch.cat([problem.labels] * COPIES)


class UntilHeld(pl.Callback):
    """Ends relearning once the intention holds on so many images.

    Args:
        share: of the images, in (0, 1].
        first: the number of steps that are done in any case.
    """

    def __init__(self, held: Held, share: float, first: int) -> None:
        self.held, self.share, self.first = held, share, first

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        step = trainer.global_step
        if step >= self.first and step % EVERY == 0:
            model = pl_module.get_submodule("model")
            trainer.should_stop = self.held.share(model) >= self.share


def interpolated(original: nn.Module, model: nn.Module, held: Held, kept: float) -> float:
    """Move ``model`` back towards f_o, to the smallest step that keeps the intention.

    Weights are interpolated linearly (Wortsman et al. 2022, WiSE-FT), without training.

    Args:
        original: f_o; not changed.
        model: the relearned one; changed in place.
        kept: how much of the share on which the intention holds must remain, in (0, 1].

    Returns:
        The step, in [0, 1]: 0 is f_o, 1 the relearned model.
    """
    start, end = original.state_dict(), copy.deepcopy(model.state_dict())
    wanted = kept * held.share(model)
    for i in range(GRID + 1):
        step = i / GRID
        model.load_state_dict({k: _between(start[k], end[k], step) for k in end})
        if held.share(model) >= wanted:
            return step
    return 1.0


def _between(a: Tensor, b: Tensor, step: float) -> Tensor:
    if step == 1 or not b.is_floating_point():
        return b
    return torch.lerp(a.to(b.dtype), b, step)
