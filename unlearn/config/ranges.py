"""Which values each setting may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unlearn.engine.precision import PRECISIONS
from unlearn.errors import UserError
from unlearn.models.base import NORMS
from unlearn.relearning import check_samples


@dataclass
class Range:
    """A test that a setting must pass and the words for it."""

    test: Callable[[Any], bool]
    words: str


COUNT = Range(lambda v: v >= 1, "a whole number from 1")
# A BatchNorm that is trained refuses a batch of one image.
BATCH = Range(lambda v: v >= 2, "a whole number from 2")
NUMBER0 = Range(lambda v: v >= 0, "a number from 0")
ABOVE0 = Range(lambda v: v > 0, "a number above 0")
PART = Range(lambda v: 0 < v <= 1, "a share in (0, 1]")
SHARE = Range(lambda v: 0 <= v < 1, "a number in [0, 1)")


def one_of(*names: str) -> Range:
    """A range of names."""
    return Range(lambda v: v in names, "one of " + ", ".join(names))


RANGES: dict[str, Range] = {
    "seed": NUMBER0,
    "precision": one_of(*PRECISIONS),
    "compile": Range(lambda v: isinstance(v, bool) or v == "auto", "one of true, false, auto"),
    "jobs": COUNT,
    "threads": COUNT,
    "image_size": Range(lambda v: v >= 8, "a whole number from 8"),
    "per_class": COUNT,
    "model.width": COUNT,
    "model.norm": one_of(*NORMS),
    "augment.padding": NUMBER0,
    "augment.rotation": Range(lambda v: 0 <= v <= 180, "degrees in [0, 180]"),
    "training.epochs": COUNT,
    "training.batch_size": BATCH,
    "training.lr": ABOVE0,
    "training.momentum": SHARE,
    "training.weight_decay": NUMBER0,
    "training.schedule": one_of("constant", "onecycle"),
    "inversion.steps": COUNT,
    "inversion.batch_size": BATCH,
    "inversion.lr": ABOVE0,
    "inversion.betas": Range(
        lambda v: len(v) == 2 and all(0 <= b < 1 for b in v), "two numbers in [0, 1)"
    ),
    "inversion.weight_decay": NUMBER0,
    "inversion.schedule": one_of("constant", "cosine"),
    "inversion.generators": COUNT,
    "inversion.z": COUNT,
    "inversion.width": COUNT,
    "inversion.augmentations": NUMBER0,
    "inversion.prior": one_of("running", "shots"),
    "inversion.tar_copies": COUNT,
    "inversion.tv_reduction": one_of("mean", "sum"),
    "inversion.grid_every": NUMBER0,
    "filtration.per_condition": COUNT,
    "filtration.batch_size": COUNT,
    "filtration.rounds": COUNT,
    "filtration.augmentations": NUMBER0,
    "filtration.t_ent": ABOVE0,
    "filtration.bandwidths": Range(
        lambda v: len(v) > 0 and all(b > 0 for b in v), "at least one number above 0"
    ),
    "filtration.threshold": NUMBER0,
    "filtration.shot_copies": COUNT,
    "filtration.own_label": COUNT,
    "relearning.epochs": COUNT,
    "relearning.batch_size": BATCH,
    "relearning.lr": ABOVE0,
    "relearning.momentum": SHARE,
    "relearning.weight_decay": NUMBER0,
    "relearning.schedule": one_of("constant", "cosine"),
    "relearning.clip": ABOVE0,
    "relearning.batchnorm": one_of("train", "frozen"),
    "relearning.temperature": ABOVE0,
    "relearning.shot_copies": NUMBER0,
    "relearning.forget_weight": NUMBER0,
    "relearning.own_label_weight": NUMBER0,
    "relearning.led_label_weight": NUMBER0,
    "relearning.teacher": one_of("stored", "view"),
    "relearning.forget": one_of("samples", "shots"),
    "relearning.mixup": Range(lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    "relearning.adversarial": NUMBER0,
    "relearning.adversarial_forget": NUMBER0,
    "relearning.anchor": NUMBER0,
    "relearning.interpolate": PART,
    "relearning.average": PART,
    "relearning.stop": PART,
    "relearning.candidates": COUNT,
}


def check_ranges(cfg: Any) -> None:
    """Refuse values out of range in a ``settings.Config``.

    Raises:
        UserError: naming the key and what is allowed.
    """
    for key, allowed in RANGES.items():
        value: Any = cfg
        for part in key.split("."):
            value = getattr(value, part, None)  # not every model has a width
        if value is not None and not allowed.test(value):
            raise UserError(key, f"{value!r} is not {allowed.words}")
    for name, weight in vars(cfg.inversion.weights).items():
        if weight < 0:
            raise UserError(f"inversion.weights.{name}", f"{weight!r} is not a number from 0")
    if cfg.relearning.candidates > 1 and not cfg.relearning.fresh:
        raise UserError(
            "relearning.candidates",
            f"{cfg.relearning.candidates} needs relearning.fresh=true; stored samples allow 1",
        )
    for name in ("mixup", "adversarial"):
        value = getattr(cfg.relearning, name)
        if value and cfg.relearning.teacher != "view":
            raise UserError(
                f"relearning.{name}",
                f"{value} needs relearning.teacher=view; stored answers allow 0",
            )
    if cfg.relearning.adversarial_forget and not cfg.relearning.adversarial:
        raise UserError(
            "relearning.adversarial_forget",
            f"{cfg.relearning.adversarial_forget} needs relearning.adversarial above 0; without it "
            "only 0 is allowed",
        )
    cfg.intention.check_settings()
    if cfg.baseline is None:
        check_samples(cfg.intention, cfg.relearning, cfg.proxy and cfg.proxy.name)
    if cfg.proxy is not None:
        _check_stand_in(cfg)


def _check_stand_in(cfg: Any) -> None:
    """Refuse settings that do not go with a stand-in for D~_r."""
    cfg.proxy.check_settings()
    if cfg.relearning.shot_copies < 1:
        raise UserError(
            "relearning.shot_copies",
            f"{cfg.relearning.shot_copies}: with proxy={cfg.proxy.name} the copies of the shots "
            "are all of D~_e; take 1 or more",
        )
    if cfg.relearning.fresh:
        raise UserError("relearning.fresh", "true needs proxy=inversion; use false")
