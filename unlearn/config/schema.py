"""The schema of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from unlearn.baselines import BASELINES, Baseline
from unlearn.engine.augment import Augment
from unlearn.engine.precision import Precision
from unlearn.filtration import FiltrationConfig
from unlearn.inversion import InversionConfig
from unlearn.methods import METHODS, Competitor, Method
from unlearn.models import MODELS, ORIGINS, AnyModel, model_class
from unlearn.registry import Registry
from unlearn.relearning import INTENTIONS, Intention, RelearningConfig
from unlearn.scenarios import SCENARIOS, Scenario
from unlearn.standins import STANDINS, StandIn
from unlearn.training import TrainingConfig

# What ``baseline`` may name: methods that are given what ours is, and those that see all the data.
COMPETITORS: Registry[type[Competitor]] = Registry("baseline")
for _kind in (METHODS, BASELINES):
    for _name in _kind:
        COMPETITORS.register(_name)(_kind[_name])


@dataclass
class Config:
    """Everything a run depends on. The values are in conf/, the knobs on top in ``KNOBS``."""

    scenario: Scenario = MISSING
    intention: Intention = MISSING
    baseline: Competitor | None = None
    proxy: StandIn | None = None
    shot: int | float | str = MISSING
    seed: int = MISSING
    scale: str = MISSING
    data: str = MISSING
    data_dir: str = MISSING
    output_dir: str = MISSING
    device: str = MISSING
    precision: str = MISSING
    compile: bool | str = MISSING
    logger: dict[str, Any] = field(default_factory=dict)
    experiment: str | None = None
    track_predictions: bool = MISSING
    jobs: int = MISSING
    threads: int | None = None
    image_size: int | None = None
    per_class: int | None = None
    model: AnyModel = MISSING
    augment: Augment = field(default_factory=Augment)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    filtration: FiltrationConfig = field(default_factory=FiltrationConfig)
    relearning: RelearningConfig = field(default_factory=RelearningConfig)

    @property
    def rival(self) -> Method | None:
        """The method that takes the place of ours, with the same information."""
        other = self.baseline is not None and not self.baseline.sees_all
        return cast(Method, self.baseline) if other else None

    @property
    def full_access(self) -> Baseline | None:
        """The method that is given all of D."""
        all_of_it = self.baseline is not None and self.baseline.sees_all
        return cast(Baseline, self.baseline) if all_of_it else None

    @property
    def networks(self) -> Precision:
        """How networks compute while they are fitted."""
        return Precision(self.precision, self.compile)


@dataclass
class TableConf:
    """Hydra's node ``hydra.sweeper``, where an experiment's YAML keeps its table."""

    _target_: str = "hydra_plugins.few_shot_unlearning.TableSweeper"
    title: str = ""
    measures: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)


@cache
def register() -> None:
    """Put the schema into Hydra's ConfigStore, and what conf/ computes with; once."""
    OmegaConf.register_new_resolver(
        "gpu_share", lambda jobs: min(1.0, torch.cuda.device_count() / jobs), replace=True
    )
    OmegaConf.register_new_resolver("whole_class", whole_class, replace=True)
    OmegaConf.register_new_resolver("by_d_e", by_d_e, replace=True)
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="hydra/sweeper", name="table", node=TableConf)
    registries: dict[str, Registry[Any]] = {
        "scenario": SCENARIOS,
        "intention": INTENTIONS,
        "baseline": COMPETITORS,
        "proxy": STANDINS,
    }
    for group, registry in registries.items():
        for name in registry:
            store.store(group=group, name=f"{name}_schema", node=registry[name])
    for name in (*MODELS, *ORIGINS):
        store.store(group="model", name=f"{name}_schema", node=model_class(name))


def whole_class(scenario: str, then: Any = True, otherwise: Any = False) -> Any:
    """``then`` where a scenario forgets a whole class, else ``otherwise``."""
    return then if SCENARIOS[scenario].whole_class else otherwise


def by_d_e(told: bool, shot: float | str, whole: Any, part: Any, single: Any) -> Any:
    """One of three values: D_e is a whole class, a part of one, or a part shown by one image.

    Args:
        told: ``filtration.whole_class``.
    """
    if told:
        return whole
    return single if shot == "1img" else part
