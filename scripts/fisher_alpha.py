"""Choose ``baseline.alpha`` of fisher: how much noise the model bears on what it must keep.

    python scripts/fisher_alpha.py scenario=7mnist scale=demo

The rule: the largest alpha of the grid at which, and below which, the mean accuracy on the
training images of D_r over the seeds stays within 2 points of the original's. Test images play no
part. Prints one JSON object: the accuracies on D_r and D_e in training at each alpha, and the
choice.
"""

import argparse
import json
import logging
import statistics
from itertools import takewhile
from pathlib import Path
from typing import Any

from unlearn.baselines.fisher import Fisher
from unlearn.config import check, resolve
from unlearn.engine.device import hardware, pick_device
from unlearn.evaluation.outputs import outputs
from unlearn.pipeline import Job
from unlearn.runs.run import Run
from unlearn.runs.tracking import Tracker
from unlearn.scenarios import Task, load_task, take_shots

GRID = [float(f"{m}e{e}") for e in range(-10, -3) for m in (1, 3)] + [1e-3]
TOLERANCE = 0.02


def accuracies(model: Any, task: Task) -> dict[str, float]:
    """On the training images, with the labels that the original learned."""
    right = outputs(model, task.train.x).probabilities.argmax(-1) == task.train.y
    return {
        "train_D_r": float(right[~task.forget].double().mean()),
        "train_D_e": float(right[task.forget].double().mean()),
    }


def choose(sweep: list[dict[str, Any]], floor: float) -> float | None:
    """The last alpha before the mean accuracy on D_r first falls below ``floor``."""
    kept = takewhile(lambda row: row["train_D_r"]["mean"] >= floor, sweep)
    return max((row["alpha"] for row in kept), default=None)


def main() -> None:
    """Sweep alpha over the grid and print what each does to the training images."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    cfg = resolve([*args.overrides, "baseline=fisher"])
    check(cfg)
    assert isinstance(cfg.baseline, Fisher)
    fisher, device = cfg.baseline, pick_device(cfg.device)
    task = load_task(cfg.scenario, cfg.data, Path(cfg.data_dir), cfg.image_size, cfg.per_class)
    shots = take_shots(task, cfg.shot, cfg.seed)
    original, _ = Job(Run(cfg), device, task, shots, Tracker()).original()
    before = accuracies(original, task)
    diagonal = fisher.diagonal(original, task, cfg.seed)
    rows: list[dict[str, Any]] = []
    for fisher.alpha in GRID:
        results = [
            accuracies(fisher.noised(original, task, diagonal, seed), task) for seed in args.seeds
        ]
        row: dict[str, Any] = {"alpha": fisher.alpha}
        for name in before:
            values = [r[name] for r in results]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row[name] = {"mean": statistics.mean(values), "std": spread}
        rows.append(row)
    summary = {
        "scenario": cfg.scenario.name,
        "scale": cfg.scale,
        "seeds": args.seeds,
        "original": before,
        "tolerance": TOLERANCE,
        "chosen": choose(rows, before["train_D_r"] - TOLERANCE),
        "sweep": rows,
        "hardware": hardware(device),
    }
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
