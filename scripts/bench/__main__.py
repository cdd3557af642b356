"""Time the stages of a run, and fast ways against the usual ones.

python -m scripts.bench [--only NAME ...] [--scale demo] [--device cuda] [--json FILE]
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from unlearn.engine.device import hardware

from . import data, fisher, inversion, repairs, sizes, stages
from .measure import Options, Result, in_words, write_json
from .subjects import SCALES

BENCHES: dict[str, Callable[[Options], list[Result]]] = {
    "repairs": repairs.bench,
    "stages": stages.bench,
    "inversion": inversion.bench,
    "data": data.bench,
    "fisher": fisher.bench,
    "sizes": sizes.bench,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the benches, print a table after each, and write them all down."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m scripts.bench")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads; all by default")
    parser.add_argument("--compile", action="store_true", help="time compiled steps too")
    parser.add_argument("--json", type=Path, help="where everything printed is written, too")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    options = Options(args.device, args.scale, args.repeats, args.compile)
    head = {
        "scale": args.scale,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    warnings.filterwarnings("ignore", message=".*DataLoader will create.*")
    console = Console(width=1000)  # no table is broken, however long the processor's name
    console.print(" · ".join(f"{k} {v}" for k, v in head.items()))
    results: dict[str, list[Result]] = {}
    for name in args.only:
        start = time.perf_counter()
        results[name] = BENCHES[name](options)
        for result in results[name]:
            for row in result.rows:
                row["hardware"] = hardware(args.device)
            console.print(result.table())
            for remark, value in result.remarks.items():
                console.print(f"{remark}: {in_words(value)}")
        console.print(f"({name}: {time.perf_counter() - start:.0f} s)\n")
        if args.json:
            write_json(args.json, head, results)


if __name__ == "__main__":
    main()
