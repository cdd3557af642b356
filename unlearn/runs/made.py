"""What a method made of the original, and what its record says of how."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from unlearn.config import method_of, unlearner_settings
from unlearn.engine.device import checkout, hardware
from unlearn.engine.fitting import Fit
from unlearn.engine.stages import Stages
from unlearn.errors import UserError
from unlearn.evaluation import VERSION
from unlearn.filtration import NotSeparable, Proxy
from unlearn.forget import few_shot_unlearn
from unlearn.problem import Problem
from unlearn.runs import pictures
from unlearn.runs.record import StageRecord
from unlearn.runs.run import PACKAGE, Run
from unlearn.version import __version__

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "kneed")
MOST = 0.5  # of the shots


@dataclass
class Made:
    """What a method made of the original.

    Attributes:
        model: the unlearned model, in eval mode.
        history: losses of each stage.
        stages: what made it.
        predictions: answers on the test D_e over each stage's epochs, if asked for.
        facts: what else the record says of the method.
        figures: pictures by name, drawn when they are written.
        proxy: the samples that stood in for the training data; ours only.
    """

    model: nn.Module
    history: dict[str, list[dict[str, float]]]
    stages: dict[str, StageRecord]
    predictions: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Callable[[], Any]] = field(default_factory=dict)
    proxy: Proxy | None = None


def few_shot(place: Run, problem: Problem, classes: list[str], fit: Fit, stages: Stages) -> Made:
    """Ours, or a method that is handed the same: model, shots and intention, and no data.

    Raises:
        UserError: naming the setting; where nothing could be separated, with pictures.
    """
    cfg, folder = place.cfg, place.folder / "pictures"
    pictures.save(pictures.draw_shots(problem.shots.float().cpu()), folder / "shots.png")
    grid = pictures.SampleGrid(folder, classes, cfg.inversion.grid_every)
    settings = unlearner_settings(cfg)
    try:
        result = few_shot_unlearn(
            problem, cfg.intention, settings, replace(fit, callbacks=(grid,)), stages
        )
    except NotSeparable as error:
        raise _shown(error, place, classes) from error
    proxy, generator = result.proxy, result.generator
    facts: dict[str, Any] = {"chosen": result.chosen} if result.chosen else {}
    figures: dict[str, Callable[[], Any]] = {}
    if proxy is not None:
        facts["samples"] = len(proxy.conditions)
    if proxy is not None and generator is not None:
        facts |= {"target_like": int(proxy.target_like.sum()), "threshold": result.threshold}
        figures = {
            "samples": lambda: pictures.draw_samples(generator, classes, "generator"),
            "filtration": lambda: pictures.draw_filtration(proxy, classes),
            "knee": lambda: pictures.draw_knee(proxy),
        }
    made = made_by(stages)
    return Made(result.model, result.history, made, result.predictions, facts, figures, proxy)


def _shown(error: NotSeparable, place: Run, classes: list[str]) -> UserError:
    """The error, with pictures of the samples that could not be split."""
    folder = place.folder / "pictures"
    if error.proxy is not None:
        pictures.save(pictures.draw_filtration(error.proxy, classes), folder / "filtration.png")
        pictures.save(pictures.draw_knee(error.proxy), folder / "knee.png")
    return UserError(error.key, f"{str(error).split(': ', 1)[1]} (pictures in {folder})")


def warn_of_kept(kept: float, ours: bool = True) -> None:
    """Say so where the unlearned model still answers most shots by the label it shall not.

    Args:
        kept: the share of the shots that it does.
        ours: whether our method made it, with its settings.
    """
    if kept <= MOST:
        return
    said = "most shots still get their label"
    if ours:
        said += (
            "; intention=neg or cor, a larger relearning.forget_weight and more relearning.epochs "
            "help"
        )
    log.warning("%s", said)


def made_by(stages: Stages) -> dict[str, StageRecord]:
    """Finished stages, for the record."""
    return {
        name: StageRecord(key, stages.versions[name], stages.seconds[name])
        for name, key in stages.keys.items()
    }


def provenance(place: Run, made: Made, device: torch.device) -> dict[str, Any]:
    """What a record says of the run's settings, and of what computed it."""
    cfg, known = place.cfg, place.settings
    commit, dirty = checkout()
    return {
        "scenario": cfg.scenario.name,
        "method": method_of(cfg),
        "intention": cfg.intention.name if "intention" in known else None,
        "shot": known.get("shot"),
        "seed": known.get("seed"),
        "scale": cfg.scale,
        "data": cfg.data,
        "experiment": cfg.experiment,
        "config": known,
        "config_hash": place.hash,
        "stages": made.stages,
        "measured": VERSION,
        "commit": commit,
        "dirty": dirty,
        "threads": torch.get_num_threads(),
        "precision": cfg.networks.in_words(device),
        "hardware": hardware(device),
        "versions": {
            PACKAGE: __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **made.facts,
    }
