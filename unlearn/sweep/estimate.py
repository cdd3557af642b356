"""How long stages will take on this machine, from a few timed steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch
from torch import nn

from unlearn.config import Config
from unlearn.engine.fitting import gpu_layout, laid_out
from unlearn.engine.precision import Precision, forward
from unlearn.engine.store import hash_of
from unlearn.inversion import Inverter, build_generator
from unlearn.models import Classifier, build
from unlearn.problem import Interface, Problem
from unlearn.scenarios import Task
from unlearn.scenarios.base import shot_count

# Images in a timed step, and seconds: where a step of the real size would not take longer, it is
# timed, since one of few images costs more than its share.
SAMPLE = 16
QUICK = 1.0
FORWARD = 1 / 3  # of a training step: the backward pass costs about two forward ones


def stage_seconds(
    cfg: Config, task: Task, device: torch.device, timed: dict[str, float] | None = None
) -> dict[str, float]:
    """Seconds for the original's training and for the method's own work, from one timed step of
    each; filtration and evaluation, which are short, are left out.

    Args:
        timed: steps that were timed before, by what they depend on; new ones are added.

    Returns:
        ``training``, and for ours ``relearning`` and, but with a stand-in, ``inversion``, else the
        baseline's name.
    """
    timed = {} if timed is None else timed
    computed = [str(device), cfg.precision]
    key = hash_of([cfg.model.settings(), task.shape, len(task.classes), *computed])
    if key not in timed:
        timed[key] = _image_seconds(cfg, task, device)
    image = timed[key]
    trained = 0 if cfg.model.file is not None else cfg.training.epochs
    seconds = {"training": image * trained * len(task.train)}
    if (baseline := cfg.full_access) is not None:
        return seconds | {baseline.name: image * baseline.passes(cfg.training, task)}
    if (rival := cfg.rival) is not None:
        shots = shot_count(cfg.shot, int(task.forget.sum()))
        return seconds | {rival.name: image * rival.passes(shots)}
    samples = cfg.filtration.per_condition * (len(task.classes) + 1)
    seconds |= {"relearning": image * samples * _passes(cfg)}
    if cfg.proxy is not None:
        return seconds
    key = hash_of([key, asdict(cfg.inversion), asdict(cfg.augment)])
    if key not in timed:
        timed[key] = _inversion_seconds(cfg, task, device)
    return seconds | {"inversion": timed[key]}


def _passes(cfg: Config) -> float:
    """What relearning does with each sample, in training steps' time."""
    votes = FORWARD if cfg.intention.asks_samples else 0.0
    return cfg.relearning.epochs * (1 + _more(cfg)) + votes


def _more(cfg: Config) -> float:
    """What a teacher, and fresh or adversarial samples cost, as a share of a training step's
    forward and backward passes."""
    c, passes = cfg.relearning, 0
    if c.teacher == "view":
        passes += 1
    if c.adversarial:
        passes += 4  # the model and f_o, forward and back to the image
    if c.fresh:
        # The generator, f_o on the sample and on each augmentation, the model that chooses.
        passes += c.candidates * (2 + cfg.filtration.augmentations)
        passes += c.candidates if c.candidates > 1 else 0
    return passes * FORWARD


def _image_seconds(cfg: Config, task: Task, device: torch.device) -> float:
    """Seconds of an image's part in a training step."""
    model = _model(cfg, task, device)

    def step(number: int) -> Callable[[], None]:
        x, y = task.train.x[:number].to(device).float() / 255, task.train.y[:number].to(device)
        return lambda: nn.functional.cross_entropy(forward(model, x), y).backward()

    with _as_fitted(cfg, [model], device):
        return _share(step, SAMPLE, min(cfg.training.batch_size, len(task.train)), device)


def _inversion_seconds(cfg: Config, task: Task, device: torch.device) -> float:
    """Seconds of all the inversion's steps."""
    model = _model(cfg, task, device)
    x = task.train.x[:SAMPLE].to(device).float() / 255
    labels = torch.zeros(len(x), dtype=torch.long)
    return inversion_seconds(cfg, Problem.of(model, x, labels, None, cfg.augment, 0, Interface()))


def own_seconds(cfg: Config, problem: Problem) -> dict[str, float]:
    """Seconds of ``inversion`` and ``relearning`` of one's own model, from timed steps; or of the
    method that takes their place."""
    device, size = problem.device, cfg.relearning.batch_size
    model = problem.student()

    def step(number: int) -> Callable[[], None]:
        x = torch.rand(number, *problem.shape, device=device)
        return lambda: forward(model, x).logsumexp(-1).mean().backward()

    if (rival := cfg.rival) is not None:
        image = _share(step, SAMPLE, SAMPLE, device)
        return {rival.name: image * rival.passes(len(problem.shots))}
    samples = cfg.filtration.per_condition * (problem.classes + len(problem.targets))
    with _as_fitted(cfg, [model], device):
        relearning = _share(step, SAMPLE, size, device) * samples * _passes(cfg)
    made = {} if cfg.proxy is not None else {"inversion": inversion_seconds(cfg, problem)}
    return made | {"relearning": relearning}


def inversion_seconds(cfg: Config, problem: Problem) -> float:
    """Seconds of all the inversion's steps, from timed ones."""
    device, classes, shape = problem.device, problem.classes, problem.shape
    plus = len(problem.targets)
    generator = build_generator(cfg.inversion, classes, shape, 0, plus)
    generator = gpu_layout(generator.to(device))

    def step(number: int) -> Callable[[], None]:
        module = Inverter(replace(cfg.inversion, batch_size=number), generator, problem)

        def run() -> None:
            with module.probe:
                module.losses(0)["loss"].backward()

        return run

    c = cfg.inversion
    few = min(max(SAMPLE, classes + plus), c.batch_size)  # every condition needs one
    with _as_fitted(cfg, [generator, problem.original], device):
        return c.generators * c.steps * c.batch_size * _share(step, few, c.batch_size, device)


@contextmanager
def _as_fitted(cfg: Config, networks: list[nn.Module], device: torch.device) -> Iterator[None]:
    """Within, networks compute as in a stage, but for compiling."""
    precision = Precision(cfg.precision)
    with laid_out(networks, precision, device), precision.passes(device, 1).here():
        yield


def _share(
    step: Callable[[int], Callable[[], None]], few: int, size: int, device: torch.device
) -> float:
    """Seconds of an image's part in a step of ``size`` images, told from one of ``few`` if slow."""
    seconds = _timed(step(few), device) / few
    return _timed(step(size), device) / size if seconds * size <= QUICK else seconds


def _model(cfg: Config, task: Task, device: torch.device) -> Classifier:
    (channels, height, width), source = task.shape, task.source
    model = build(cfg.model, channels, len(task.classes), source.mean, source.std, (height, width))
    return gpu_layout(model.to(device))


def duration_in_words(seconds: float) -> str:
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
