"""Which settings a run's result depends on."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from unlearn.config.schema import Config
from unlearn.engine.stages import settings_of

# What the result does not depend on.
INCIDENTAL = (
    "experiment",
    "output_dir",
    "data_dir",
    "device",
    "logger",
    "jobs",
    "threads",
)
# What it does not depend on where there is no D.
WITHOUT_DATA = ("shot", "data", "image_size", "per_class", "training", "track_predictions")


def method_of(cfg: Config) -> str:
    """``ours`` or the baseline's name."""
    return "ours" if cfg.baseline is None else cfg.baseline.name


def relevant(cfg: Config) -> dict[str, Any]:
    """The settings that a run's result depends on, as plain values.

    A baseline's result does not depend on how we invert, filtrate and relearn, nor on the knobs
    that it does not use.
    """
    values = {k: v for k, v in asdict(cfg).items() if k not in INCIDENTAL}
    values["model"] = cfg.model.settings()
    if not cfg.scenario.needs_data:
        for unused in WITHOUT_DATA:
            del values[unused]
    values["inversion"]["grid_every"] = 0
    if cfg.baseline is None:
        if cfg.proxy is not None:
            del values["inversion"]
        return values
    for unused in ("inversion", "filtration", "relearning", "proxy"):
        del values[unused]
    for knob in {"intention", "shot", "seed"} - cfg.baseline.uses:
        del values[knob]
    if "intention" in cfg.baseline.uses:
        values["intention"] = asdict(cfg.intention.for_oracle())
    return values


def known_by(cfg: Config) -> dict[str, Any]:
    """What a run is found again by: the relevant settings, less switches that came later and are
    off."""
    values = relevant(cfg)
    for name in ("inversion", "filtration", "relearning", "baseline"):
        if values.get(name) is not None:
            known = settings_of(getattr(cfg, name))
            values[name] = {k: v for k, v in values[name].items() if k in known}
    return values
