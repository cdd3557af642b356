"""delete: f_o's own answer with the label masked (DELETE)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.methods.base import METHODS, answered
from unlearn.methods.steps import Losses, Objective, Stepwise
from unlearn.problem import Problem

MASKED = -1e10  # the logit of y; finite, so that the divergence is


@METHODS.register("delete")
@dataclass
class Delete(Stepwise):
    """KL( softmax(f_o(x) with logit y masked) | f(x) ), "batchmean", until no shot is called y.

    Zhou et al. 2025, "Decoupled distillation to erase" (CVPR), made for whole classes; SGD 1e-4
    with momentum 0.9, 20 epochs, batches of 128 (shaaaaron/DELETE@60018a1). Known error: its epochs
    count thousands of images; of 24 shots 20 epochs are 20 steps, in train mode enough to lose
    BatchNorm's statistics. Here steps are set and BatchNorm is frozen. A reduction "mean" would
    divide by the classes too.
    """

    name: str = "delete"

    def objective(self, problem: Problem, images: Tensor) -> Objective:
        logits = answered(problem.original, images)
        logits[:, problem.target] = MASKED
        p = logits.softmax(-1)

        def losses(model: nn.Module, rows: Tensor, _rng: torch.Generator) -> Losses:
            answers = model(images[rows]).log_softmax(-1)
            return {"loss": F.kl_div(answers, p[rows], reduction="batchmean")}

        return Objective(losses)
