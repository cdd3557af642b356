"""Relearn time: how soon the forgotten images are known again."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.engine.fitting import batched
from unlearn.engine.predict import logits_of, predict
from unlearn.engine.seeding import seeded
from unlearn.evaluation.accuracy import share
from unlearn.evaluation.base import ON_REQUEST, Evidence, needed_original

LR, BATCH, CAP = 1e-3, 32, 500
WITHIN = 0.05
JUDGED = 500  # images at most that are asked after every step


@ON_REQUEST.register("relearn_time")
def relearn_time(seen: Evidence) -> dict[str, float]:
    """``relearn_steps``, ``relearn_steps_oracle`` and their ratio ``relearn_time``.

    Steps of SGD on D_e's training images, with the labels that they have in D, until they are
    known again within 5 points of the original's accuracy on them; 500 means not within 500. The
    ratio counts 0 steps as 1. It is the anamnesis index of Chundawat et al. 2023 (Zero-Shot
    Machine Unlearning) with alpha = 5 %, in steps.

    Raises:
        UserError: if the original is not kept.
    """
    x, y = seen.task.train.x[seen.task.forget], seen.task.train.y[seen.task.forget]
    original = needed_original(seen, "relearn_time")
    goal = share(predict(original, x[:JUDGED]) == y[:JUDGED]) - WITHIN
    found = {"relearn_steps": float(steps_until(seen.model, x, y, goal, seen.seed))}
    oracle = seen.others.oracle()
    if oracle is not None:
        theirs = steps_until(oracle, x, y, goal, seen.seed)
        found["relearn_steps_oracle"] = float(theirs)
        found["relearn_time"] = max(found["relearn_steps"], 1) / max(theirs, 1)
    return found


def steps_until(model: nn.Module, x: Tensor, y: Tensor, goal: float, seed: int) -> int:
    """How many steps a copy of a model takes until it knows images to a goal.

    SGD without momentum at 1e-3 on batches of 32, all in eval mode: BatchNorm keeps its running
    statistics, which a few steps would replace.

    Args:
        x, y: uint8 images (n, C, H, W) and labels (n,); the accuracy is that on the first 500.
        goal: accuracy in [0, 1].

    Returns:
        0 to 500; 500 also where the goal is not reached.
    """
    model = copy.deepcopy(model).eval().requires_grad_(True)
    device, dtype = next(model.parameters()).device, torch.get_default_dtype()
    optimizer = torch.optim.SGD(model.parameters(), LR)
    rng = seeded(seed, "relearn")
    batches: list[Tensor] = []
    for step in range(CAP):
        if share(predict(model, x[:JUDGED]) == y[:JUDGED]) >= goal:
            return step
        batches = batches or batched(torch.randperm(len(x), generator=rng), BATCH)
        rows = batches.pop(0)
        logits = logits_of(model(x[rows].to(device, dtype) / 255))
        optimizer.zero_grad()
        F.cross_entropy(logits, y[rows].to(device)).backward()
        optimizer.step()
    return CAP
