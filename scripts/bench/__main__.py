"""Measure what was made fast against the usual way, side by side.

python -m scripts.bench [--only fisher] [--scale paper] [--device cuda] [--json FILE]
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from unlearn.engine.device import hardware

from . import computing, data, fisher, growth, inversion, loop, several, stages
from .measure import Options, Result, in_words, write_json

BENCHES: dict[str, Callable[[Options], list[Result]]] = {
    "data": data.bench,
    "inversion": inversion.bench,
    "computing": computing.bench,
    "loop": loop.bench,
    "several": several.bench,
    "stages": stages.bench,
    "growth": growth.bench,
    "fisher": fisher.bench,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the benches, print a table after each, and write them all down at the end."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m scripts.bench")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--scale", choices=("demo", "paper", "tiny"), default="demo")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument("--json", type=Path, help="where everything printed is written, too")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    options = Options(args.device, args.scale, args.repeats)
    head = {
        "hardware": hardware(args.device),
        "threads": torch.get_num_threads(),
        "scale": args.scale,
        "repeats": args.repeats,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for expected in ("DataLoader will create", "dynamo_pgo force disabled"):
        warnings.filterwarnings("ignore", message=f".*{expected}.*")
    console = Console(width=150)
    console.print(" · ".join(f"{k} {v}" for k, v in head.items()))
    results: dict[str, list[Result]] = {}
    for name in args.only:
        start = time.perf_counter()
        results[name] = BENCHES[name](options)
        for result in results[name]:
            console.print(result.table())
            for remark, value in result.remarks.items():
                console.print(f"{remark}: {in_words(value)}")
        console.print(f"({name}: {time.perf_counter() - start:.0f} s)\n")
        if args.json:
            write_json(args.json, head, results)


if __name__ == "__main__":
    main()
