"""How long stages will take on this machine, from a few timed steps."""

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
from unlearn.stage import gpu_layout

# Images in a timed step: few on the CPU, where they are slow; a GPU's step of few costs no less
# than one of many.
SAMPLE = {"cpu": 16, "cuda": 128}


def stage_seconds(cfg: Config, task: Task, device: torch.device) -> dict[str, float]:
    """Seconds for the original's training and for the method's own work, from one timed step of
    each; filtration and evaluation, which are short, are left out.

    Returns:
        ``training``, and for ours ``inversion`` and ``relearning``, else the baseline's name.
    """
    model = build(cfg.model, task.shape[0], len(task.classes), task.source.mean, task.source.std)
    gpu_layout(model.to(device))
    sample = SAMPLE.get(device.type, 16)
    x = task.train.x[:sample].to(device).float() / 255
    y = task.train.y[:sample].to(device)
    image = _timed(lambda: nn.functional.cross_entropy(model(x), y).backward(), device) / len(x)
    seconds = {"training": image * cfg.training.epochs * len(task.train)}
    if cfg.baseline is not None:
        return seconds | {cfg.baseline.name: image * cfg.baseline.passes(cfg.training, task)}
    model.eval().requires_grad_(False)
    small = copy.deepcopy(cfg.inversion)
    small.batch_size = max(sample, len(task.classes) + 1)
    generator = gpu_layout(build_generator(small, len(task.classes), task.shape, 0).to(device))
    inversion = Inversion(
        small, generator, model, x, 0, len(task.classes), cfg.augment, 0, head_of(model, x)
    )
    with inversion.probe:
        step = _timed(lambda: inversion.losses(0)["loss"].backward(), device)
    samples = cfg.filtration.per_condition * (len(task.classes) + 1)
    return seconds | {
        "inversion": step * cfg.inversion.steps * cfg.inversion.batch_size / small.batch_size,
        "relearning": image * cfg.relearning.epochs * samples,
    }


def in_words(seconds: float) -> str:
    """A duration to one significant unit."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of the faster of two calls."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        with torch.enable_grad():
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken)
