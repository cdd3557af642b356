"""The stages of a run: seconds, images a second, share of the device's matmul rate, memory.

Each is run for a few steps by the code that a run goes through, in a process of its own, so that
its peak of memory is its own.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import multiprocessing
from torch.utils.flop_counter import FlopCounterMode

from unlearn.config.schema import Config
from unlearn.data import Images
from unlearn.filtration import NotSeparable, Proxy, filtrate
from unlearn.inversion.invert import invert
from unlearn.relearning import relearn
from unlearn.relearning.intentions.neg import Neg
from unlearn.training import train

from .measure import Cell, Options, Result, in_turns, matmul_rate, spread_of, wait_for
from .subjects import (
    CLASSES,
    NETWORKS,
    SHOTS,
    TARGET,
    classifier,
    computing_of,
    inversion_of,
    random_images,
    settings,
)

STEPS = {"tiny": 2, "demo": 12, "paper": 30}
TRAIN_IMAGES = {"tiny": 16, "demo": 4000, "paper": 60000}


@dataclass
class Stage:
    """What a stage does when run: for how many steps of how many images.

    Attributes:
        run: all steps; callbacks are told of each one.
        batch: images of a step.
        configured: steps of a whole run, as the settings have it.
    """

    run: Callable[[list[pl.Callback]], object]
    batch: int
    configured: float


class Clock(pl.Callback):
    """The time at the end of each training step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ends = device, list[float]()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        wait_for(self.device)
        self.ends.append(time.perf_counter())


def training(cfg: Config, scale: str, device: torch.device) -> Stage:
    """The original model's."""
    c = cfg.training
    configured = c.epochs * -(-TRAIN_IMAGES[scale] // c.batch_size)
    c.epochs = 1
    x = random_images(STEPS[scale] * c.batch_size, NETWORKS[scale][2])
    data, model = Images(x, torch.arange(len(x)) % CLASSES), classifier(*NETWORKS[scale])

    def run(callbacks: list[pl.Callback]) -> None:
        how = computing_of(cfg)
        train(c, model, data, cfg.augment, device, callbacks, computing=how)

    return Stage(run, c.batch_size, configured)


def inversion(cfg: Config, scale: str, device: torch.device) -> Stage:
    """The generator's."""
    configured, cfg.inversion.steps = cfg.inversion.steps, STEPS[scale]
    module = inversion_of(cfg, device, NETWORKS[scale])[0]

    def run(callbacks: list[pl.Callback]) -> None:
        invert(module, device, callbacks, computing=computing_of(cfg))

    return Stage(run, cfg.inversion.batch_size, configured)


def filtration(cfg: Config, scale: str, device: torch.device) -> Stage:
    """Of the samples of one round, all sure enough; the untrained model may not split them."""
    c = cfg.filtration
    c.t_ent, c.threshold, c.rounds = 10.0, 5.0, 1
    module, generator, shots = inversion_of(cfg, device, NETWORKS[scale])
    generator.eval()
    head, model = module.probe.head, module.frozen["f_o"]

    def run(_: list[pl.Callback]) -> None:
        with suppress(NotSeparable):
            filtrate(c, generator, model, shots, TARGET, cfg.augment, 0, head)

    return Stage(run, c.per_condition * (CLASSES + 1), 1)


def relearning(cfg: Config, scale: str, device: torch.device) -> Stage:
    """Intention ``neg``, on noise instead of samples, a tenth of it target-like."""
    c, classes = cfg.relearning, CLASSES
    samples = cfg.filtration.per_condition * (classes + 1) + c.shot_copies * SHOTS
    configured = c.epochs * -(-samples // c.batch_size)
    c.epochs, c.shot_copies = 1, 0
    number = STEPS[scale] * c.batch_size
    images = random_images(number, NETWORKS[scale][2])
    like = torch.arange(number) % classes == 0
    proxy = Proxy(
        images,
        torch.full((number, classes), 1 / classes),
        torch.arange(number) % (classes + 1),
        torch.zeros(number),
        torch.zeros(SHOTS),
        like,
        torch.zeros_like(like),
        torch.tensor(0.0),
        torch.ones(1),
        torch.tensor(False),
    )
    model = classifier(*NETWORKS[scale]).to(device)
    shots = images[:SHOTS].to(device).float() / 255
    neg = Neg("neg", 0, form=c.negative, cutoff=1.0)

    def run(callbacks: list[pl.Callback]) -> None:
        how = computing_of(cfg)
        given = (c, model, proxy, shots, neg, TARGET, None, cfg.augment, 0, callbacks)
        relearn(*given, computing=how)

    return Stage(run, c.batch_size, configured)


STAGES = {
    "training": training,
    "inversion": inversion,
    "filtration": filtration,
    "relearning": relearning,
}


def bench(options: Options) -> list[Result]:
    """A row for each stage; a whole stage is its time per step times the steps it is set to."""
    # What a process resides in counts from its fork on; from that of a server without data.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    rows = []
    for name in STAGES:
        with context.Pool(1) as pool:
            rows.append(pool.apply(of_stage, (name, options, torch.get_num_threads())))
    network, width, (channels, height, columns) = NETWORKS[options.scale]
    return [
        Result(
            f"Stages at scale {options.scale}, {network} of width {width}, "
            f"{channels}x{height}x{columns}",
            rows,
            {
                "a stage's seconds": "ms of a step times configured steps; filtration: one round",
                "memory": "GPU: allocated at most; CPU: resident at most, libraries included",
            },
        )
    ]


def of_stage(name: str, options: Options, threads: int) -> dict[str, Cell]:
    """A stage's row, measured in this process."""
    torch.set_num_threads(threads)
    device = options.device
    rate = matmul_rate(device)
    stage = STAGES[name](settings(options.scale), options.scale, device)
    stage.run([])
    clock = Clock(device)
    if name == "filtration":
        seconds = in_turns({"": lambda: stage.run([])}, options.repeats, device)[""]
    else:
        stage.run([clock])
        seconds = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
    memory = peak_memory(device)
    with FlopCounterMode(display=False) as counter:
        stage.run([])
    flops = counter.get_total_flops() / (1 if name == "filtration" else STEPS[options.scale])
    step = spread_of([1000 * s for s in seconds])
    median = step.median / 1000
    return {
        "stage": name,
        "ms a step": step,
        "configured steps": stage.configured,
        "seconds": median * stage.configured,
        "images a step": stage.batch,
        "images/s": stage.batch / median,
        "GFLOP a step": flops / 1e9,
        "matmul GFLOP/s": rate / 1e9,
        "share of matmul rate": flops / median / rate,
        "peak MiB": memory,
    }


def peak_memory(device: torch.device) -> float:
    """MiB: allocated on a GPU, else resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
