"""Every job of a command line composed and checked, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from unlearn.config import Config, check, resolve
from unlearn.config.errors import in_quotes, translated
from unlearn.errors import UserError
from unlearn.sweep.jobs import jobs_of, parse_overrides

# Names of files, folders and classes.
TEXTS = (
    *("output_dir", "data_dir", "scenario.class_name"),
    *("scenario.shots", "scenario.classes", "scenario.test", "scenario.test_forget"),
    *("model.checkpoint", "model.folder", "model.arch", "model.factory"),
)


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep, each a list of overrides.

    Raises:
        UserError: if an override cannot be read.
    """
    _refuse_misread(overrides, sweep=True)
    try:
        parsed = parse_overrides(overrides)
        for override in parsed:
            key = override.get_key_element()
            if key.startswith("hydra") and override.is_sweep_override():
                raise UserError(key, "is one for all jobs of a sweep, and takes one value")
        return jobs_of(parsed)
    except (HydraException, ValueError) as error:
        raise translated(error, overrides, sweep=True) from error


def check_jobs(jobs: Sequence[Sequence[str]], multirun: bool) -> list[Config]:
    """Compose and check every job; jobs that differ in their seed alone are composed once.

    Raises:
        UserError: for whatever is wrong with one of them.
    """
    composed: dict[tuple[str, ...], Config] = {}
    configs = []
    for overrides in jobs:
        seeds = [o.removeprefix("seed=") for o in overrides if o.startswith("seed=")]
        others = tuple(o for o in overrides if not o.startswith("seed="))
        if len(seeds) != 1 or not seeds[0].isdecimal():
            configs.append(check_job(overrides, multirun))
            continue
        if others not in composed:
            composed[others] = check_job(overrides, multirun)
        configs.append(replace(composed[others], seed=int(seeds[0])))
    return configs


def check_job(overrides: Sequence[str], multirun: bool) -> Config:
    """Compose and check one job.

    Raises:
        UserError: for whatever is wrong with it.
    """
    cfg = compose_job(overrides)
    check(cfg)
    if cfg.experiment is not None and not multirun:
        raise UserError("experiment", f"{cfg.experiment} is a sweep: run it with -m")
    return cfg


def compose_job(overrides: Sequence[str]) -> Config:
    """Compose one job; whether it can be run is not checked.

    Raises:
        UserError: for an override that cannot be read, or that names what there is not.
    """
    _refuse_misread(overrides)
    try:
        return resolve(overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise translated(error, overrides) from error


def _refuse_misread(overrides: Sequence[str], sweep: bool = False) -> None:
    """Raise for a name that Hydra reads as a number or a truth: ``1_000`` would become 1000."""
    for override in overrides:
        key, _, given = override.partition("=")
        if key not in TEXTS:
            continue
        for name in given.split(",") if sweep else [given]:
            try:
                value = parse_overrides([f"{key}={name}"])[0].value()
            except HydraException:
                continue  # said elsewhere
            if isinstance(value, bool | int | float) and str(value) != name.strip():
                advice = in_quotes(key, name)
                raise UserError(key, f"{name!r} means {value} here; quote it: {advice}")
