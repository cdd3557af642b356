"""A step of inversion of a ResNet-18 for images of several sizes: its time and its memory."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from unlearn.engine.augment import Augment
from unlearn.engine.fitting import laid_out
from unlearn.engine.precision import Precision
from unlearn.inversion import Inverter, build_generator
from unlearn.models.from_torchvision import Torchvision
from unlearn.problem import Interface, Problem

from .inversion import step_of
from .measure import Cell, Options, Result, seconds_of, spread_of, wait_for
from .subjects import CLASSES, SHOTS, TARGET, classifier, random_images, settings

SIDES, BATCH = (32, 64, 128, 224), 16


def bench(options: Options) -> list[Result]:
    """A row for each size and precision, smaller images first."""
    cfg, device = settings(options.scale), options.device
    sides = SIDES[:1] if options.scale == "tiny" else SIDES
    inversion = replace(cfg.inversion, batch_size=BATCH, augmentations=1)
    rows: list[dict[str, Cell]] = []
    for side in sides:
        for way, precision in {"float32": Precision("fp32"), "bfloat16": Precision("bf16")}.items():
            problem = problem_of_side(side, device)
            generator = build_generator(inversion, CLASSES, problem.shape, 0).to(device).train()
            module = Inverter(inversion, generator, problem)
            step = step_of(module, precision)
            with laid_out([generator, *module.frozen.values()], precision, device):
                memory = memory_of(step, device)  # the first, which warms up
                times = [seconds_of(step, device) for _ in range(options.repeats)]
            rows.append(
                {
                    "image": f"{side}x{side}, {way}",
                    "ms a step": spread_of([1000 * s for s in times]),
                    "MiB of a step": memory,
                }
            )
    title = f"A step of inversion, resnet18 of torchvision, batch {BATCH}, one augmentation"
    return [Result(title, rows, {"MiB": "what the first step adds to the process at its peak"})]


def problem_of_side(side: int, device: torch.device) -> Problem:
    """A ResNet-18 for colour images of a size, and shots of noise."""
    shape = (3, side, side)
    model = classifier(Torchvision(name="torchvision", arch="resnet18"), 3).to(device)
    shots = random_images(SHOTS, shape).float() / 255
    return Problem.of(model, shots, torch.full((SHOTS,), TARGET), None, Augment(), 0, Interface())


def memory_of(call: Callable[[], object], device: torch.device) -> Cell:
    """MiB that a call adds at its peak: of a GPU, else of the process (Linux alone says it)."""
    if device.type == "cuda":
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        call()
        return "unknown"
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # else what an earlier step left is used again
    reset.write_text("5")  # the peak is counted anew
    before = _kib(status, "VmRSS")
    call()
    return (_kib(status, "VmHWM") - before) / 2**10


def _kib(status: Path, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text())
    return int(found[1]) if found else 0
