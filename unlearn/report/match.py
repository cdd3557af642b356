"""Which runs fill which cells."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, cast

from omegaconf import OmegaConf

from unlearn.config import CONF, relevant, resolve
from unlearn.config.tables import Cell, list_experiments, load_table
from unlearn.engine.augment import Augment
from unlearn.filtration import FiltrationConfig
from unlearn.inversion import InversionConfig
from unlearn.models import ModelConfig
from unlearn.relearning import INTENTIONS, RelearningConfig
from unlearn.report.runs import Found, Run, flat
from unlearn.training import TrainingConfig

# Watching does not change the result.
OBSERVING = "track_predictions"
# What a scenario's images are at each scale; those of the run are in ``data``.
SUGGESTED = "scenario.data."


@dataclass
class Filled:
    """A cell with its runs.

    Attributes:
        runs: one a seed, by seed; a method without randomness has one.
        failures: failed runs of the seeds that have no other.
        left_out: how many more runs fit.
        departures: settings of the runs that are not conf/'s own, in words.
    """

    cell: Cell
    runs: list[Run] = field(default_factory=list)
    failures: list[Run] = field(default_factory=list)
    left_out: int = 0
    departures: list[str] = field(default_factory=list)


def fill(cell: Cell, scale: str, found: Found) -> Filled:
    """A cell's runs at a scale.

    A run fits if it agrees with the cell in all that the cell sets and in whatever is chosen by
    name, and has nothing that sets another cell apart. Other settings may differ: then they are
    reported. Of several runs of a seed the one without such departures is taken, else the newest.
    """
    said = dict(override.split("=", 1) for override in spelt_out(cell.overrides))
    filled = Filled(cell)

    def candidate(run: Run) -> bool:
        known = (run.scale, run.method, run.settings.get("scenario.name"), run.proxy)
        method, proxy = said.get("baseline", "ours"), said.get("proxy", "inversion")
        return known == (scale, method, said["scenario"], proxy)

    runs, failures = (
        [run for run in group if candidate(run)] for group in (found.runs, found.failures)
    )
    if not runs and not failures:
        return filled
    wanted = composed(cell.overrides, scale)
    sets = {setting(key) for key in said}
    by_seed: dict[int | None, list[Run]] = defaultdict(list)
    for run in runs:
        if fits(run, wanted, sets):
            by_seed[run.seed].append(run)
    for seed in sorted(by_seed, key=lambda s: -1 if s is None else s):
        best = max(by_seed[seed], key=lambda r: (not departures(r, wanted), r.finished))
        filled.runs.append(best)
        filled.departures += departures(best, wanted)
        filled.left_out += len(by_seed[seed]) - 1
    failed = {
        r.seed: r for r in sorted(failures, key=lambda r: r.finished) if fits(r, wanted, sets)
    }
    filled.failures = [run for seed, run in failed.items() if seed not in by_seed]
    return filled


def fits(run: Run, wanted: dict[str, Any], sets: set[str]) -> bool:
    """Whether a run of the right method, scenario and scale belongs into a cell.

    Args:
        run: the run.
        wanted: the cell's composed settings.
        sets: the keys that the cell sets itself.
    """
    for key, told_apart in variations().items():
        if key not in wanted or (key not in run.settings and key not in sets):
            continue
        value = said(run, key)
        if value == wanted[key] or (value is None and key not in run.settings):
            continue
        if key == OBSERVING and key not in sets:
            continue
        if key in sets or key.endswith(".name") or value in told_apart:
            return False
    return not any(
        all(said(run, key) == value for key, value in recipe.items())
        and any(key in wanted and wanted[key] != value for key, value in recipe.items())
        for recipe in recipes()
    )


def departures(run: Run, wanted: dict[str, Any]) -> list[str]:
    """Settings in which a run differs from a cell, in words.

    A setting that is newer than the run had its default then; one that is gone from conf/ is none
    where the run has null.
    """
    keys = sorted((run.settings.keys() | wanted.keys()) - {"seed", OBSERVING})
    if run.settings.get("precision") == "auto" and run.precision == asked(wanted):
        keys.remove("precision")
    pairs = [(k, said(run, k), wanted.get(k)) for k in keys if not k.startswith(SUGGESTED)]
    return [f"{key} {in_words(a)} (conf/: {in_words(b)})" for key, a, b in pairs if a != b]


def asked(wanted: dict[str, Any]) -> str | None:
    """The precision that a cell asks for, as a run says what it used; None leaves the choice."""
    return {"fp32": "float32", "bf16": "bfloat16"}.get(wanted.get("precision", ""))


def said(run: Run, key: str) -> Any:
    """A run's value of a setting; of one that is newer than the run, the default."""
    if key not in run.settings:
        return defaults(str(run.settings.get("intention.name"))).get(key)
    return run.settings[key]


@cache
def defaults(intention: str) -> dict[str, Any]:
    """The settings' defaults by dotted key: what the code did before it had the setting."""
    parts: dict[str, Any] = {
        "model": ModelConfig(),
        "augment": Augment(),
        "training": TrainingConfig(),
        "inversion": InversionConfig(),
        "filtration": FiltrationConfig(),
        "relearning": RelearningConfig(),
    }
    if intention in INTENTIONS:
        parts["intention"] = INTENTIONS[intention]()
    nested = {name: asdict(part) for name, part in parts.items()}
    return flat(json.loads(json.dumps(nested)))


def in_words(value: Any) -> str:
    """A setting's value in words."""
    return "null" if value is None else str(value)


@cache
def composed(overrides: tuple[str, ...], scale: str) -> dict[str, Any]:
    """A cell's settings by dotted key, as a metrics file would have them."""
    cfg = resolve([*overrides, f"scale={scale}"])
    return flat(json.loads(json.dumps(relevant(cfg))))


@cache
def variations() -> dict[str, list[Any]]:
    """Every setting that some cell of some experiment sets, and the values it is set to.

    A recipe's settings are among them without their values: it is told apart as a whole.
    """
    values: dict[str, list[Any]] = defaultdict(list)
    cells = [cell for name in list_experiments() for cell in load_table(name).cells()]
    for override in dict.fromkeys(o for cell in cells for o in cell.overrides):
        if override.startswith("recipe="):
            for part in spelt_out((override,)):
                values[setting(part.split("=", 1)[0])] += []
            continue
        key, text = override.split("=", 1)
        values[setting(key)].append(OmegaConf.from_dotlist([f"is={text}"])["is"])
    return dict(values)


@cache
def recipes() -> list[dict[str, Any]]:
    """The settings of each recipe, but for those that it takes from another setting."""
    found = []
    for path in sorted((CONF / "recipe").glob("*.yaml")):
        sets = recipe_sets(path.stem).items()
        found.append({k: v for k, v in sets if "${" not in str(v)})
    return [recipe for recipe in found if recipe]


@cache
def recipe_sets(name: str) -> dict[str, Any]:
    """What a recipe sets, by dotted key; of a group that it chooses from, the name."""
    loaded = OmegaConf.to_container(OmegaConf.load(CONF / "recipe" / f"{name}.yaml"))
    given = dict(cast(dict[str, Any], loaded) or {})
    groups: dict[str, Any] = {}
    for chosen in given.pop("defaults", []):
        if isinstance(chosen, dict):
            groups |= {setting(key.rpartition("/")[2]): value for key, value in chosen.items()}
    return groups | flat(given)


def spelt_out(overrides: tuple[str, ...]) -> list[str]:
    """Overrides with a recipe's own in its place."""
    words: list[str] = []
    for override in overrides:
        key, value = override.split("=", 1)
        if key == "recipe":
            sets = {k.removesuffix(".name"): v for k, v in recipe_sets(value).items()}
            words += [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in sets.items()]
        else:
            words.append(override)
    return words


def setting(key: str) -> str:
    """The setting behind an override's key: of a group it is the name."""
    return f"{key}.name" if (CONF / key).is_dir() else key
