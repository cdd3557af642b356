"""A whole repair, stage by stage, and the original's training: their seconds.

As the scale has them, of its precision, for a part of a class and for a whole one, on noise of the
data's size.
"""

from __future__ import annotations

from typing import cast

from unlearn.engine.fitting import Fit
from unlearn.engine.precision import Precision

from .measure import Cell, Options, Result, Spread
from .stages import filtration, inversion, of_stage, relearning, training
from .subjects import settings, subject

COLUMNS = {
    "7-noisyMNIST, neg": ("scenario=7noisymnist", "intention=neg"),
    "Truck-CIFAR10, neg": ("scenario=truck_cifar10", "intention=neg"),
}
RECIPES = ("paper", "best")
OURS = (inversion, filtration, relearning)


def bench(options: Options) -> list[Result]:
    """A row for each column and recipe; a step of the inversion beside them."""
    rows: list[dict[str, Cell]] = []
    for column, sets in COLUMNS.items():
        for recipe in RECIPES:
            cfg = settings(options.scale, *sets, "shot=0.03", f"recipe={recipe}")
            fit = Fit(precision=Precision(cfg.precision))
            row: dict[str, Cell] = {"repair": f"{column}, recipe={recipe}"}
            for make in (training, *OURS):
                name = "original" if make is training else make.__name__
                stage = make(cfg, options.device)
                (timed,) = of_stage(name, stage, {"": fit}, options)
                row[f"{name}, s"] = timed["seconds of the stage"]
                if make is inversion:
                    row["ms a step of it"] = cast(Spread, timed["ms for one step"])
            row["the repair, s"] = sum(cast(float, row[f"{make.__name__}, s"]) for make in OURS)
            rows.append(row)
    title = f"Repairs at scale {options.scale}, {subject(cfg)[: subject(cfg).rindex(',')]}"
    remarks: dict[str, Cell] = {"seconds": "median steps times their number; evaluation left out"}
    return [Result(title, rows, remarks)]
