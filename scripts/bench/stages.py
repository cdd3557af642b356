"""The stages of a run in each precision: a step, the whole stage; where inversion's time goes.

Each is run for a few steps by the code that a run goes through, Lightning included, on noise.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from torch.profiler import profile

from unlearn.config import Config
from unlearn.data import Images
from unlearn.engine.fitting import Fit
from unlearn.engine.precision import Precision
from unlearn.filtration import Filtration, NotSeparable, Proxy, filtrate
from unlearn.inversion import Inversion
from unlearn.relearning import Relearning
from unlearn.training import train

from .measure import Cell, Options, Result, against_the_first, seconds_of, spread_of, wait_for
from .subjects import (
    CLASSES,
    SHOTS,
    classifier,
    generator_of,
    problem_of,
    random_images,
    settings,
    shape_of,
    subject,
)

FEW = 6  # steps of a turn
WAYS = {"fp32": "float32", "bf16": "bfloat16"}
TRAIN = {"mnist": 60000, "mnist5k": 4000, "cifar10": 50000}  # training images
SHOWN = 12  # operators


@dataclass
class Stage:
    """A stage made short.

    Attributes:
        run: a few steps of it; or all of it, without Lightning's steps.
        images: of a step.
        steps: of the whole stage, as the settings have it.
    """

    run: Callable[[Fit], object]
    images: int
    steps: int = 1


class Clock(pl.Callback):
    """The time, and that of this process's CPU threads, at the end of each training step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, list[tuple[float, float]]()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        wait_for(self.device)
        self.ends.append((time.perf_counter(), time.process_time()))


def training(cfg: Config, device: torch.device) -> Stage:
    """The original model's."""
    c, shape = replace(cfg.training, epochs=1), shape_of(cfg)
    number = min(TRAIN[cfg.data], CLASSES * (cfg.per_class or TRAIN[cfg.data]))
    x = random_images(FEW * c.batch_size, shape)
    data, model = Images(x, torch.arange(len(x)) % CLASSES), classifier(cfg.model, shape[0])
    steps = cfg.training.epochs * -(-number // c.batch_size)
    return Stage(lambda fit: train(c, model, data, cfg.augment, device, fit), c.batch_size, steps)


def inversion(cfg: Config, device: torch.device) -> Stage:
    """The generator's."""
    c, problem = cfg.inversion, problem_of(cfg, device)
    short = Inversion(replace(c, steps=FEW, generators=1))
    whole = c.generators * c.steps
    return Stage(lambda fit: short.make(problem, fit), c.batch_size, whole)


def filtration(cfg: Config, device: torch.device) -> Stage:
    """One round, all samples sure enough; the untrained model may not split them."""
    c = replace(cfg.filtration, t_ent=10.0, threshold=5.0, rounds=1)
    problem = problem_of(cfg, device)
    generator = generator_of(cfg, problem)

    def run(_: Fit) -> None:
        with suppress(NotSeparable):
            filtrate(c, problem, generator)

    return Stage(run, c.per_condition * (CLASSES + 1))


def relearning(cfg: Config, device: torch.device) -> Stage:
    """On noise instead of samples, a tenth of it target-like."""
    c = cfg.relearning
    number = FEW * c.batch_size
    like = torch.arange(number) % CLASSES == 0
    proxy = Proxy(
        random_images(number, shape_of(cfg)),
        torch.full((number, CLASSES), 1 / CLASSES),
        torch.arange(number) % (CLASSES + 1),
        torch.zeros(number),
        torch.zeros(SHOTS),
        like,
        torch.zeros_like(like),
        torch.tensor(0.0),
        torch.ones(1),
        torch.tensor(False),
    )
    problem = problem_of(cfg, device)
    generator = generator_of(cfg, problem)
    sampler = Filtration(cfg.filtration).sampler(problem, generator)
    short = Relearning(replace(c, epochs=1, shot_copies=0), cfg.intention)
    samples = cfg.filtration.per_condition * (CLASSES + 1) + c.shot_copies * SHOTS
    return Stage(
        lambda fit: short.make(problem, proxy, sampler, fit),
        c.batch_size,
        c.epochs * -(-samples // c.batch_size),
    )


def bench(options: Options) -> list[Result]:
    """A table of stages, and one of an inversion step's operators for each precision."""
    cfg, device = settings(options.scale), options.device
    ways = {way: Precision(name) for name, way in WAYS.items()}
    if options.compile:
        name = "fp32" if device.type == "cpu" else "bf16"
        ways[f"{WAYS[name]}, compiled"] = Precision(name, True)
    rows: list[dict[str, Cell]] = []
    for make in (training, inversion, filtration, relearning):
        fits = {way: Fit(precision=precision) for way, precision in ways.items()}
        if make is filtration:  # always float32
            fits = {"float32": fits["float32"]}
        rows += of_stage(make.__name__, make(cfg, device), fits, options)
    title = f"scale {options.scale}, {subject(cfg)}"
    remarks: dict[str, Cell] = {
        "seconds of a stage": "steps timed, times their number; filtration: one round, run whole",
        "CPU ms": "of all threads; another job's load hardly shows in it",
    }
    stages = Result(f"Stages at {title}", rows, remarks)
    step = f"A step of inversion at {title}, batch {cfg.inversion.batch_size}"
    wheres = [
        where(f"{step}, {way}", inversion(cfg, device), Fit(precision=precision), options)
        for way, precision in ways.items()
    ]
    return [stages, *wheres]


def of_stage(
    name: str, stage: Stage, fits: dict[str, Fit], options: Options
) -> list[dict[str, Cell]]:
    """A row for each way of fitting it; they take turns."""
    times: dict[str, list[float]] = defaultdict(list)
    busy: dict[str, list[float]] = defaultdict(list)
    for turn in range(options.repeats + 1):  # the first warms up
        for way, fit in fits.items():
            steps = seconds_of_steps(stage, fit, options.device)
            if turn:
                times[f"{name}, {way}"] += [wall for wall, _ in steps]
                busy[f"{name}, {way}"] += [cpu for _, cpu in steps]
    rows = against_the_first(times, dict.fromkeys(times, 1), "step")
    for row, (way, seconds) in zip(rows, times.items(), strict=True):
        step = statistics.median(seconds)
        row |= {"CPU ms": spread_of([1000 * s for s in busy[way]])}
        row |= {"images/s": stage.images / step, "steps": stage.steps}
        row["seconds of the stage"] = step * stage.steps
    return rows


def seconds_of_steps(stage: Stage, fit: Fit, device: torch.device) -> list[tuple[float, float]]:
    """Seconds from the end of each step to that of the next, and the CPU's; of a stage run whole,
    all of it."""
    clock, start = Clock(device), time.process_time()
    whole = seconds_of(lambda: stage.run(replace(fit, callbacks=(clock,))), device)
    cpu = time.process_time() - start
    gaps = [(b - a, d - c) for (a, c), (b, d) in pairwise(clock.ends)]
    return gaps or [(whole, cpu)]


def where(title: str, stage: Stage, fit: Fit, options: Options) -> Result:
    """The operators that steps spend most on, by torch's profiler: their own time."""
    kind = "device" if options.device.type == "cuda" else "cpu"
    times: dict[str, list[float]] = defaultdict(list)
    stage.run(fit)
    for _ in range(options.repeats):
        with profile(acc_events=True) as profiler:
            seconds_of(lambda: stage.run(fit), options.device)
        for event in profiler.key_averages():
            times[event.key].append(getattr(event, f"self_{kind}_time_total") / 1000 / FEW)
    spreads = {name: spread_of(ms) for name, ms in times.items()}
    whole = sum(spread.median for spread in spreads.values())
    most = sorted(spreads.items(), key=lambda item: -item[1].median)[:SHOWN]
    return Result(
        title,
        [{"operator": n, "ms a step": s, "% of all": 100 * s.median / whole} for n, s in most],
    )
