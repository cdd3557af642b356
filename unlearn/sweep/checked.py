"""Every job of a command line composed and checked, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from unlearn.config import Config, check, resolve
from unlearn.config.errors import translated
from unlearn.errors import UserError
from unlearn.sweep.jobs import jobs_of, parse_overrides


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep, each a list of overrides.

    Raises:
        UserError: if an override cannot be read.
    """
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
    try:
        cfg = resolve(overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise translated(error, overrides) from error
    check(cfg)
    if cfg.experiment is not None and not multirun:
        raise UserError("experiment", f"{cfg.experiment} is a sweep: run it with -m")
    return cfg
