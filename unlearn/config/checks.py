"""What is refused before any work: values out of range, combinations that cannot be."""

from __future__ import annotations

from importlib.util import find_spec

from unlearn.config.ranges import check_ranges
from unlearn.config.schema import Config
from unlearn.data import SOURCES
from unlearn.errors import UserError, choices
from unlearn.models import MODELS
from unlearn.relearning import INTENTIONS
from unlearn.scenarios import SCENARIOS
from unlearn.scenarios.base import shot_count

LOGGERS = ("wandb", "tensorboard", "csv", "none")


def loggers(cfg: Config) -> list[str]:
    """The trackers beside history.csv, which is always written: none for ``csv`` and ``none``.

    Raises:
        UserError: for what is no name or list of names, and for a tracker that is not installed.
    """
    names = [cfg.logger] if isinstance(cfg.logger, str) else cfg.logger
    allowed = ", ".join(LOGGERS)
    if not isinstance(names, list) or not names:
        raise UserError("logger", f"{cfg.logger!r} is not a name or [a list] of {allowed}")
    for name in names:
        if name not in LOGGERS:
            raise choices("logger", name, LOGGERS)
    if len(set(names)) < len(names):
        raise UserError("logger", f"{names} names one twice; each of {allowed} at most once")
    if "none" in names and len(names) > 1:
        raise UserError("logger", f"none stands alone; {names} may hold {allowed[:-6]}")
    if "tensorboard" in names and find_spec("tensorboard") is None:
        raise UserError(
            "logger",
            "tensorboard is not installed: pip install 'few-shot-unlearning[tensorboard]'; "
            f"there are {allowed}",
        )
    return [name for name in names if name not in ("csv", "none")]


def check(cfg: Config) -> None:
    """Refuse values out of range and combinations that cannot be, before any work.

    Raises:
        UserError: naming the key and what is allowed.
    """
    check_ranges(cfg)
    for key in ("output_dir", "data_dir"):
        if not getattr(cfg, key).strip():
            raise UserError(key, f"needs a folder: {key}=...")
    loggers(cfg)
    shot_count(cfg.shot, 2**62)
    for key, value, names in (
        ("model", cfg.model.name, MODELS.list()),
        ("data", cfg.data, SOURCES.list()),
    ):
        if value not in names:
            raise choices(key, value, names)
    cfg.scenario.check()
    if cfg.baseline is not None:
        cfg.baseline.check(cfg.scenario)
    if cfg.filtration.whole_class and not cfg.scenario.whole_class:
        able = [n for n in SCENARIOS if SCENARIOS[n].whole_class]
        raise UserError(
            "filtration.whole_class",
            f"true needs a scenario that forgets a whole class: {', '.join(able)}; "
            f"{cfg.scenario.name} allows false",
        )
    needs = cfg.intention.needs_correct_label
    uses_intention = cfg.baseline is None or "intention" in cfg.baseline.uses
    if uses_intention and needs and not cfg.scenario.knows_correct:
        able = [n for n in SCENARIOS if SCENARIOS[n].knows_correct]
        raise UserError(
            "intention",
            f"{cfg.intention.name} needs a scenario whose correct label is known: "
            f"{', '.join(able)}; {cfg.scenario.name} allows "
            f"{', '.join(n for n in INTENTIONS if not INTENTIONS[n].needs_correct_label)}",
        )
