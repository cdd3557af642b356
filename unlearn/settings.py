"""The schema of the configuration, where its values are read, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from omegaconf import MISSING, OmegaConf

from unlearn.augment import Augment
from unlearn.baselines import BASELINES, Baseline
from unlearn.computing import PRECISIONS, Computing
from unlearn.data import SOURCES
from unlearn.errors import UserError, choices, did_you_mean
from unlearn.filtration import FiltrationConfig
from unlearn.inversion import InversionConfig
from unlearn.models import MODELS, ModelConfig
from unlearn.ranges import check_ranges
from unlearn.registry import Registry
from unlearn.relearning import INTENTIONS, Intention, RelearningConfig
from unlearn.scenarios import SCENARIOS, Scenario
from unlearn.scenarios.base import shot_count
from unlearn.training import TrainingConfig
from unlearn.unlearner import Settings

_HERE = Path(__file__).resolve().parent
# A checkout keeps conf/ beside the package, an installed wheel inside it.
CONF = next(p for p in (_HERE / "conf", _HERE.parent / "conf") if p.is_dir())
LOGGERS = ("wandb", "tensorboard", "csv", "none")

# What the result does not depend on.
INCIDENTAL = (
    "experiment",
    "output_dir",
    "data_dir",
    "device",
    "logger",
    "jobs",
    "threads",
    "trainer",
)


@dataclass
class TrainerConfig:
    """On how many devices one job computes."""

    devices: int = MISSING


@dataclass
class Config:
    """Everything a run depends on. The values are in conf/, the knobs on top in ``KNOBS``."""

    scenario: Scenario = MISSING
    intention: Intention = MISSING
    baseline: Baseline | None = None
    shot: int | float | str = MISSING
    seed: int = MISSING
    scale: str = MISSING
    data: str = MISSING
    data_dir: str = MISSING
    output_dir: str = MISSING
    device: str = MISSING
    precision: str = MISSING
    compile: bool | str = MISSING
    logger: Any = MISSING
    experiment: str | None = None
    track_predictions: bool = MISSING
    jobs: int = MISSING
    threads: int | None = None
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    image_size: int | None = None
    per_class: int | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: Augment = field(default_factory=Augment)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    filtration: FiltrationConfig = field(default_factory=FiltrationConfig)
    relearning: RelearningConfig = field(default_factory=RelearningConfig)


@dataclass
class TableConf(BasicSweeperConf):
    """Hydra's node ``hydra.sweeper``, where an experiment's YAML keeps its table."""

    title: str = ""
    measures: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)


def register() -> None:
    """Put the schema into Hydra's ConfigStore, and what conf/ computes with."""
    OmegaConf.register_new_resolver(
        "gpu_share", lambda jobs: min(1.0, torch.cuda.device_count() / jobs), replace=True
    )
    OmegaConf.register_new_resolver(
        "whole_class", lambda scenario: SCENARIOS[scenario].whole_class, replace=True
    )
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="hydra/sweeper", name="table", node=TableConf)
    registries: dict[str, Registry[Any]] = {
        "scenario": SCENARIOS,
        "intention": INTENTIONS,
        "baseline": BASELINES,
    }
    for group, registry in registries.items():
        for name in registry:
            store.store(group=group, name=f"{name}_schema", node=registry[name])


def resolve(overrides: Sequence[str]) -> Config:
    """Compose ``conf/config.yaml`` with overrides, typed but not yet checked."""
    register()
    before = get_gh_backup()  # a job may be running under Hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", overrides=list(overrides))
    finally:
        restore_gh_from_backup(before)
    return typed(composed)


def typed(composed: Any) -> Config:
    """A composed configuration as dataclasses, every interpolation resolved."""
    _refuse_strangers(composed, "")
    OmegaConf.resolve(composed)
    return cast(Config, OmegaConf.to_object(composed))


def method_of(cfg: Config) -> str:
    """``ours`` or the baseline's name."""
    return "ours" if cfg.baseline is None else cfg.baseline.name


def relevant(cfg: Config) -> dict[str, Any]:
    """The settings that a run's result depends on, as plain values.

    A baseline's result does not depend on how we invert, filtrate and relearn, nor on the knobs
    that it does not use.
    """
    values = {k: v for k, v in asdict(cfg).items() if k not in INCIDENTAL}
    values["inversion"]["grid_every"] = 0
    if cfg.baseline is None:
        return values
    for unused in ("inversion", "filtration", "relearning"):
        del values[unused]
    for knob in {"intention", "shot", "seed"} - cfg.baseline.uses:
        del values[knob]
    if "intention" in cfg.baseline.uses:
        values["intention"] = {"name": cfg.intention.name}
    return values


def settings(scale: str = "paper", *overrides: str) -> Settings:
    """What ``unlearn.forget`` takes, from conf/: ``settings("demo", "inversion.steps=500")``."""
    cfg = resolve([f"scale={scale}", *overrides])
    check_ranges(cfg)
    return unlearner_settings(cfg)


def unlearner_settings(cfg: Config) -> Settings:
    """The unlearner's part of a configuration."""
    return Settings(
        cfg.scale,
        cfg.augment,
        cfg.inversion,
        cfg.filtration,
        cfg.relearning,
        Computing(cfg.precision, cfg.compile),
    )


def intention_named(name: str, scale: str) -> Intention:
    """An intention with the values that conf/ gives it at a scale.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in INTENTIONS:
        raise choices("intention", name, INTENTIONS.list())
    return resolve([f"scale={scale}", f"intention={name}"]).intention


def _refuse_strangers(node: Any, path: str) -> None:
    """Raise for keys that the schema lacks; Hydra's ``+key=value`` lets them in."""
    schema = OmegaConf.get_type(node)
    if not is_dataclass(schema):
        return
    known = [f.name for f in fields(schema)]
    for key in node:
        if key not in known:
            raise unknown_key(f"{path}{key}", known)
        if not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(node[key]):
            _refuse_strangers(node[key], f"{path}{key}.")


def unknown_key(name: str, known: Sequence[str]) -> UserError:
    """For a key that does not exist: the nearest one and all its neighbours."""
    parent = name.rpartition(".")[0]
    near = did_you_mean(name, [f"{parent}.{k}" if parent else k for k in known])
    return UserError(name, f"no such setting{near}; there are {', '.join(known)}")


KNOBS: dict[str, tuple[str, Callable[[], Sequence[str]] | str]] = {
    "scenario": ("what was learnt and what must go", SCENARIOS.list),
    "intention": ("what the model shall answer on it instead", INTENTIONS.list),
    "baseline": (
        "another method, with all the training data; none is ours",
        lambda: ["none", *BASELINES.list()],
    ),
    "shot": ("how much of D_e is given", "a share in (0, 1], or a number of images: 1img, 24img"),
    "seed": ("of shots, generator and relearning", "an integer from 0"),
    "scale": (
        "networks, data and lengths",
        lambda: sorted(p.stem for p in (CONF / "scale").glob("*.yaml")),
    ),
    "recipe": (
        "switches beside the scale's settings",
        lambda: sorted(p.stem for p in (CONF / "recipe").glob("*.yaml")),
    ),
    "data": ("where the images come from", SOURCES.list),
    "data_dir": ("folder of the images", "a folder; also the environment variable UNLEARN_DATA"),
    "output_dir": ("folder of the results", "a folder"),
    "device": ("where to compute", "auto, cpu, cuda, cuda:N"),
    "precision": ("of networks while they are trained", lambda: PRECISIONS),
    "compile": ("networks, by torch.compile, while they are trained", "true, false, auto"),
    "experiment": (
        "a table or figure of the paper, with -m",
        lambda: sorted(p.stem for p in (CONF / "experiment").glob("*.yaml")),
    ),
    "launcher": (
        "what runs a sweep's jobs",
        lambda: sorted(p.stem for p in (CONF / "launcher").glob("*.yaml")),
    ),
    "jobs": ("how many jobs of a sweep at once", "a whole number from 1"),
    "threads": ("CPU threads of a job; null: all, shared by the jobs at once", "from 1"),
    "trainer.devices": ("how many devices compute one job", "a whole number from 1"),
    "track_predictions": ("follow the answers on D_e over the epochs", "true, false"),
    "logger": ("live tracking beside history.csv, one or [a,list]", lambda: list(LOGGERS)),
}


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
