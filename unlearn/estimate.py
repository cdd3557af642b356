"""How long a run will take on this machine, from a few timed steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import nn

from unlearn.inversion import Inversion, build_generator
from unlearn.models import build
from unlearn.models.probe import head_of
from unlearn.scenarios import Task
from unlearn.settings import Config

SAMPLE = 16


def estimate_seconds(cfg: Config, task: Task) -> float:
    """Seconds for training and unlearning on the CPU, from one step of each on 16 images."""
    model = build(cfg.model, task.shape[0], len(task.classes), task.source.mean, task.source.std)
    x = task.train.x[:SAMPLE].float() / 255
    y = task.train.y[:SAMPLE]
    training = _timed(lambda: nn.functional.cross_entropy(model(x), y).backward()) / len(x)
    model.eval().requires_grad_(False)
    small = copy.deepcopy(cfg.inversion)
    small.batch_size = max(SAMPLE, len(task.classes) + 1)
    generator = build_generator(small, len(task.classes), task.shape, 0)
    inversion = Inversion(
        small, generator, model, x, 0, len(task.classes), cfg.augment, 0, head_of(model, x)
    )
    with inversion.probe:
        step = _timed(lambda: inversion.losses(0)["loss"].backward())
    samples = cfg.filtration.per_condition * (len(task.classes) + 1)
    images = cfg.training.epochs * len(task.train) + cfg.relearning.epochs * samples
    return (
        training * images + step * cfg.inversion.steps * cfg.inversion.batch_size / small.batch_size
    )


def _timed(step: Callable[[], None]) -> float:
    """Seconds of the faster of two calls."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        with torch.enable_grad():
            step()
        taken.append(time.perf_counter() - start)
    return min(taken)
