"""What is refused before any work: values out of range, combinations that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pydoc import ErrorDuringImport, locate
from typing import Any

from omegaconf import OmegaConf

from unlearn.config.compose import CONF
from unlearn.config.ranges import check_ranges
from unlearn.config.schema import Config
from unlearn.data import SOURCES
from unlearn.errors import UserError, choices
from unlearn.models import MODELS, ORIGINS
from unlearn.models.origin import GIVEN
from unlearn.relearning import INTENTIONS
from unlearn.scenarios import SCENARIOS
from unlearn.scenarios.base import needs_whole_class, shot_count


def check_loggers(loggers: Mapping[str, Any]) -> None:
    """Refuse loggers that cannot be made: no class to import, or a package that is missing.

    Args:
        loggers: settings by name, as conf/logger/*.yaml has them. ``_target_`` is the class;
            ``requires`` names modules that it needs and what to install for each.

    Raises:
        UserError: naming the logger and what to install.
    """
    for name, node in loggers.items():
        key = f"logger.{name}"
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if not isinstance(target, str) or not target:
            raise UserError(key, "needs _target_, the full name of a Lightning logger's class")
        for module, package in (node.get("requires") or {}).items():
            if find_spec(module) is None:
                raise UserError(key, f"{module} is not installed: pip install '{package}'")
        package = target.partition(".")[0]
        try:
            there = locate(target) is not None
        except ErrorDuringImport as error:
            raise UserError(key, f"_target_ {target} cannot be imported ({error})") from error
        if not there:
            installed = find_spec(package) is not None
            reason = "there is no such class" if installed else f"pip install {package}?"
            raise UserError(key, f"_target_ {target} cannot be imported: {reason}")


def check(cfg: Config) -> None:
    """Refuse values out of range and combinations that cannot be, before any work.

    Raises:
        UserError: naming the key and what is allowed.
    """
    check_ranges(cfg)
    for key in ("output_dir", "data_dir"):
        if not getattr(cfg, key).strip():
            raise UserError(key, f"needs a folder: {key}=...")
    check_loggers(cfg.logger)
    shot_count(cfg.shot, 2**62)
    if cfg.model.name not in (known := [*MODELS, *ORIGINS]):
        raise choices("model", cfg.model.name, known)
    cfg.model.check()
    check_scenario(cfg)
    told = cfg.scenario.whole_class or cfg.scenario.may_be_whole_class
    if cfg.full_access is not None:
        cfg.full_access.check(cfg.scenario)
    if (rival := cfg.rival) is not None:
        rival.check(cfg.intention)
        if rival.needs_whole_class and not told:
            raise UserError("baseline", needs_whole_class(rival.name, cfg.scenario.name))
    if cfg.filtration.whole_class and not told:
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


def check_scenario(cfg: Config) -> None:
    """Refuse settings of the scenario that cannot be, and what it has no data for.

    Raises:
        UserError: naming the key and what is allowed.
    """
    if cfg.scenario.needs_data:
        if cfg.data not in SOURCES.list():
            raise choices("data", cfg.data, SOURCES.list())
        for name in GIVEN:
            if getattr(cfg.model, name) is not None:
                raise UserError(f"model.{name}", "is for scenario=own; images come from the data")
        cfg.scenario.check()
        return
    refuse_data(cfg)
    cfg.scenario.check()
    if (number := cfg.scenario.given()) is not None:
        check_all_given(cfg, number)
    uses_correct = cfg.intention.needs_correct_label
    if uses_correct and getattr(cfg.scenario, "correct", None) is None:
        raise UserError(
            "scenario.correct",
            f"intention {cfg.intention.name} needs the right class: scenario.correct=NAME",
        )


def check_all_given(cfg: Config, number: int) -> None:
    """Refuse a ``shot`` other than the default and than all images, so many, that are given.

    Raises:
        UserError: naming ``shot``.
    """
    if cfg.shot not in (OmegaConf.load(CONF / "config.yaml").shot, f"{number}img"):
        said = f"{cfg.shot!r}: {cfg.scenario.name} takes all images of scenario.shots"
        raise UserError("shot", f"{said}, {number}img")


def refuse_data(cfg: Config) -> None:
    """Refuse what needs a D where there is none.

    Raises:
        UserError: naming the key.
    """
    own = cfg.scenario.name
    if (sees_all := cfg.full_access) is not None:
        raise UserError("baseline", f"{sees_all.name} needs the training data; {own} has none")
    if cfg.data != "none":
        raise UserError("data", f"{cfg.data}: {own} has no training data; leave it out")
    for key, instead in (
        ("image_size", "give model.image_size"),
        ("per_class", "there are no training images"),
    ):
        if getattr(cfg, key) is not None:
            raise UserError(key, f"{getattr(cfg, key)}: not for scenario={own}; {instead}")
    if cfg.track_predictions:
        raise UserError("track_predictions", f"true needs the data's test images; {own} has none")
    if cfg.experiment is not None:
        raise UserError("experiment", f"{cfg.experiment} needs the paper's data; {own} has none")
