"""What memory layout, precision and torch.compile do to a step of training and of inversion."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from unlearn.stage import Stage

from unlearn.config.schema import Config
from unlearn.data import Images
from unlearn.engine.precision import Computing
from unlearn.errors import UserError
from unlearn.training import Training

from .measure import Cell, Options, Result, in_turns, ratios, seconds_of, spread_of
from .subjects import (
    CLASSES,
    NETWORKS,
    Network,
    classifier,
    inversion_of,
    random_images,
    settings,
    step_of,
)

# A way: whether channels come last, how the networks compute.
Way = tuple[bool, Computing]
CPU: dict[str, Way] = {
    "float32": (False, Computing("fp32")),
    "float32, compiled": (False, Computing("fp32", True)),
    "bf16": (False, Computing("bf16")),
}
GPU: dict[str, Way] = {
    "float32, NCHW": (False, Computing("fp32")),
    "float32, channels last": (True, Computing("fp32")),
    "bf16 and TF32, channels last": (True, Computing("bf16")),
    "the same, compiled": (True, Computing("bf16", True)),
}
STEPS = {"tiny": 1, "demo": 5, "paper": 20}


def bench(options: Options) -> list[Result]:
    """Both kinds of step; no Lightning."""
    name, width, (channels, height, columns) = network = NETWORKS[options.scale]
    cfg = settings(options.scale)
    return [
        _of(
            options,
            f"A step of {kind.__name__}, {name} of width {width}, {channels}x{height}x{columns}",
            partial(kind, cfg, network, options.device),
        )
        for kind in (training, inversion)
    ]


def training(
    cfg: Config, network: Network, device: torch.device, last: bool
) -> tuple[Stage, object]:
    """The original's training and a batch of it."""
    rows = torch.arange(cfg.training.batch_size, device=device)
    x = random_images(len(rows), network[2]).to(device)
    model = laid_out(classifier(*network).to(device), last).train()
    return Training(cfg.training, model, Images(x, rows % CLASSES), cfg.augment), rows


def inversion(
    cfg: Config, network: Network, device: torch.device, last: bool
) -> tuple[Stage, object]:
    """The generator's training and a batch of it."""
    module, generator, _ = inversion_of(cfg, device, network)
    laid_out(module.frozen["f_o"], last)
    laid_out(generator, last).train()
    return module, 0


def laid_out(module: nn.Module, last: bool) -> nn.Module:
    """The module itself, its weights in memory with the channels last or not."""
    layout = torch.channels_last if last else torch.contiguous_format
    return module.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def ways_on(options: Options) -> dict[str, Way]:
    """Those that the device allows; the tiny scale leaves out what takes a minute to compile."""
    found = {}
    for name, (last, how) in (GPU if options.device.type == "cuda" else CPU).items():
        try:
            how.check(options.device)
        except UserError:
            continue
        if not (how.compile and options.scale == "tiny"):
            found[name] = (last, how)
    return found


def _of(options: Options, title: str, make: Callable[[bool], tuple[Stage, object]]) -> Result:
    ways, number = ways_on(options), STEPS[options.scale]
    steps, first, losses = {}, {}, {}
    torch.compiler.reset()
    with torch._inductor.config.patch(force_disable_caches=True):  # as on a new machine
        for name, (last, how) in ways.items():
            steps[name] = step_of(*make(last), how, options.device)
            first[name], losses[name] = first_of(steps[name], options.device)
    turns = {name: repeated(step, number) for name, step in steps.items()}
    times = {
        name: [s / number for s in seconds]
        for name, seconds in in_turns(turns, options.repeats, options.device).items()
    }
    reference = next(iter(losses.values()))
    rows: list[dict[str, Cell]] = [
        {
            "way": name,
            "ms a step": spread_of([1000 * s for s in seconds]),
            "times faster": spread_of(ratios(next(iter(times.values())), seconds)),
            "seconds of the first step": first[name],
        }
        for name, seconds in times.items()
    ]
    remarks: dict[str, Cell] = {
        "largest difference of the losses at the first step, relative": max(
            abs(loss - reference) / abs(reference) for loss in losses.values()
        )
    }
    for name, (last, how) in ways.items():
        if how.compile:
            eager = next(k for k, v in ways.items() if v == (last, Computing(how.precision)))
            saved = statistics.median(times[eager]) - statistics.median(times[name])
            paid = round((first[name] - first[eager]) / saved) if saved > 0 else "never"
            remarks["steps until compiling has paid"] = paid
    return Result(title, rows, remarks)


def first_of(step: Callable[[], dict[str, Tensor]], device: torch.device) -> tuple[float, float]:
    """Seconds of a first step, with compiling, and its loss."""
    losses: list[Tensor] = []
    seconds = seconds_of(lambda: losses.append(step()["loss"].detach()), device)
    return seconds, float(losses[0])


def repeated(step: Callable[[], object], number: int) -> Callable[[], None]:
    """So many steps."""

    def run() -> None:
        for _ in range(number):
            step()

    return run
