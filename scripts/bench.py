"""Measure what was made fast against the usual way, side by side.

    python scripts/bench.py [--repeats 7] [--threads 1]

The two ways take turns, so that whatever else the machine does falls on both; a line gives n, and
the smallest, median and largest time for one image.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from unlearn.fisher import fisher_diagonal
from unlearn.machine import hardware
from unlearn.models import build
from unlearn.settings import resolve
from unlearn.stage import seeded, seeded_init

CLASSES = 10


@dataclass
class Bench:
    """Two ways to the same result.

    Attributes:
        title: of the table.
        ways: by name, the usual one first: what to call, and on how many images.
        difference: of their results on the same images, relative.
    """

    title: str
    ways: dict[str, tuple[Callable[[Tensor], object], int]]
    images: Tensor
    difference: Callable[[], float]


def fisher() -> Bench:
    """The Fisher diagonal of the demo's network."""
    cfg = resolve(["scale=demo"])
    with seeded_init(0, "bench"):
        model = build(cfg.model, 1, CLASSES, [0.1307], [0.3081]).eval()
    rng = seeded(0, "bench")
    images = torch.randint(0, 256, (256, 1, 28, 28), generator=rng, dtype=torch.uint8)

    def batched(x: Tensor) -> dict[str, Tensor]:
        return fisher_diagonal(model, x, batch_size=64)

    def difference() -> float:
        slow, fast = one_by_one(model, images[:4]), batched(images[:4])
        return max(float((fast[k] - f).abs().max() / f.max()) for k, f in slow.items())

    return Bench(
        f"Fisher diagonal, {cfg.model.name} of width {cfg.model.width}, 28x28, {CLASSES} classes",
        {
            "batch 1, a backward pass for each class": (lambda x: one_by_one(model, x), 16),
            "batch 64, all at once": (batched, 256),
        },
        images,
        difference,
    )


def one_by_one(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The usual Fisher diagonal: one image, one class at a time; uint8 (N, C, H, W)."""
    sums = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for image in images.split(1):
        logits = model(image.to(torch.get_default_dtype()) / 255)
        for y, p in enumerate(logits.detach().softmax(-1)[0]):
            model.zero_grad()
            F.cross_entropy(logits, torch.tensor([y])).backward(retain_graph=True)
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sums[name] += p * parameter.grad**2
    model.zero_grad()
    return {name: total / len(images) for name, total in sums.items()}


BENCHES = [fisher]


def measure(bench: Bench, repeats: int) -> dict[str, list[float]]:
    """Seconds for one image, ``repeats`` of them for each way, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in bench.ways}
    for turn in range(repeats + 1):  # the first warms up
        for name, (way, number) in bench.ways.items():
            start = time.perf_counter()
            way(bench.images[:number])
            if turn:
                times[name].append((time.perf_counter() - start) / number)
    return times


def table_of(bench: Bench, times: dict[str, list[float]]) -> Table:
    """Milliseconds for one image, and how many times faster than the usual way."""
    table = Table(title=bench.title)
    for column in ("way", "images", "n", "min ms", "median ms", "max ms", "times faster"):
        table.add_column(column, justify="left" if column == "way" else "right")
    usual = next(iter(times.values()))
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(usual, seconds, strict=True)]
        spread = (min(seconds), statistics.median(seconds), max(seconds))
        table.add_row(
            name,
            str(bench.ways[name][1]),
            str(len(seconds)),
            *(f"{1000 * s:.2f}" for s in spread),
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
        )
    return table


def main() -> None:
    """Run every benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console(width=110)
    console.print(hardware(torch.device("cpu")))
    for make in BENCHES:
        bench = make()
        console.print(table_of(bench, measure(bench, args.repeats)))
        console.print(f"largest difference of the results: {bench.difference():.1e} of the maximum")


if __name__ == "__main__":
    main()
