"""What the benches share: ways that take turns, spreads, tables, one small JSON file."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from unlearn.engine.store import write_text


@dataclass
class Options:
    """What is measured, and on what.

    Attributes:
        scale: a name in conf/scale; ``tiny`` only shows that a bench runs.
        repeats: how often each way takes its turn, after a first one that warms up.
        compile: whether compiled steps are timed too.
    """

    device: torch.device
    scale: str
    repeats: int
    compile: bool = False


@dataclass
class Spread:
    """How values lie."""

    n: int
    min: float
    median: float
    max: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.min:.4g} to {self.max:.4g}, n = {self.n})"


Cell = str | int | float | Spread


def in_words(cell: Cell) -> str:
    """A cell's text."""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


@dataclass
class Result:
    """A table: rows of named cells, with remarks below."""

    title: str
    rows: list[dict[str, Cell]]
    remarks: dict[str, Cell] = field(default_factory=dict)

    def table(self) -> Table:
        """For a terminal; columns in the order in which rows name them."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        table = Table(title=self.title)
        for name in columns:
            table.add_column(name, justify="left" if name == columns[0] else "right")
        for row in self.rows:
            table.add_row(*(in_words(row.get(name, "")) for name in columns))
        return table


def spread_of(values: list[float]) -> Spread:
    """n, the smallest, the median, the largest."""
    return Spread(len(values), min(values), statistics.median(values), max(values))


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, with all that it started on a GPU."""
    wait_for(device)
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Until a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(
    ways: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of ``repeats`` calls of each way, in turns: what disturbs one disturbs all."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):  # the first warms up
        for name, way in ways.items():
            seconds = seconds_of(way, device)
            if turn:
                times[name].append(seconds)
    return times


def against_the_first(
    times: Mapping[str, list[float]], sizes: Mapping[str, int], unit: str
) -> list[dict[str, Cell]]:
    """A row for each way: milliseconds for one ``unit``, ``unit``s a second, times faster.

    Args:
        times: seconds by way, the usual one first; compared turn by turn.
        sizes: how many units a call of each way handles.
    """
    each = {name: [s / sizes[name] for s in seconds] for name, seconds in times.items()}
    usual = next(iter(each.values()))
    return [
        {
            "way": name,
            f"ms for one {unit}": spread_of([1000 * s for s in seconds]),
            f"{unit}s/s": 1 / statistics.median(seconds),
            "times faster": spread_of([a / b for a, b in zip(usual, seconds, strict=True)]),
        }
        for name, seconds in each.items()
    ]


def write_json(path: Path, head: dict[str, Any], results: dict[str, list[Result]]) -> None:
    """Everything that was printed, whole or not at all."""
    content = head | {"benches": {k: [asdict(r) for r in v] for k, v in results.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")
