"""A whole repair, stage by stage, and the original's training: their seconds.

As the scale has them, of its precision, for a part of a class and for a whole one, on noise of the
data's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch

from unlearn.config import Config
from unlearn.engine.fitting import Fit
from unlearn.engine.precision import Precision

from .measure import Cell, Options, Result
from .stages import Stage, filtration, inversion, of_stage, relearning, training
from .subjects import settings

Make = Callable[[Config, torch.device], Stage]

COLUMNS = {
    "7-noisyMNIST, neg": ("scenario=7noisymnist", "intention=neg"),
    "Truck-CIFAR10, neg": ("scenario=truck_cifar10", "intention=neg"),
}
RECIPES = ("paper", "best")
PARTS = ("inversion, s", "filtration, s", "relearning, s")
SHARED, OWN = (training, inversion), (filtration, relearning)


def bench(options: Options) -> list[Result]:
    """A row for each column and recipe; a step of the inversion beside them.

    The original and the inversion are the same for both recipes, and timed once.
    """
    rows: list[dict[str, Cell]] = []
    for column, sets in COLUMNS.items():
        configs = {
            recipe: settings(options.scale, *sets, "shot=0.03", f"recipe={recipe}")
            for recipe in RECIPES
        }
        shared = _seconds(configs[RECIPES[0]], SHARED, options)
        for recipe, cfg in configs.items():
            seconds = shared | _seconds(cfg, OWN, options)
            repair = sum(cast(float, v) for k, v in seconds.items() if k in PARTS)
            rows.append(
                {"repair": f"{column}, recipe={recipe}", **seconds, "the repair, s": repair}
            )
    title = f"Repairs at scale {options.scale}, {cfg.model.name}"
    remarks: dict[str, Cell] = {"seconds": "median steps times their number; evaluation left out"}
    return [Result(title, rows, remarks)]


def _seconds(cfg: Config, makes: Sequence[Make], options: Options) -> dict[str, Cell]:
    """Of whole stages, by their names; a step of the inversion too."""
    fit, found = Fit(precision=Precision(cfg.precision)), dict[str, Cell]()
    for make in makes:
        name = "original" if make is training else make.__name__
        (timed,) = of_stage(name, make(cfg, options.device), {"": fit}, options)
        found[f"{name}, s"] = timed["seconds of the stage"]
        if make is inversion:
            found["ms a step of it"] = timed["ms for one step"]
    return found
