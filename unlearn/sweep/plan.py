"""What a sweep will do: its jobs, which of them are finished, how long the rest will take."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from unlearn.config import Config, relevant
from unlearn.data import SOURCES
from unlearn.engine.device import pick_device, threads_shared
from unlearn.engine.stages import Computed, chain
from unlearn.engine.store import hash_of
from unlearn.runs.record import Record
from unlearn.runs.run import Run, stages_of
from unlearn.scenarios import Task, load_task
from unlearn.sweep.estimate import duration_in_words, stage_seconds

Costs = dict[str, float]
Keys = list[tuple[str, str]]


def plan(jobs: list[str], configs: list[Config]) -> Table:
    """The jobs as a table. Stages that several jobs share are counted once."""
    estimates = Estimates(configs)
    paid: set[str] = set()
    table = Table("job", "state", "about", title="nothing is run: --dry-run")
    runs = [Run(cfg) for cfg in configs]
    finished = {run.folder for run in runs if run.record() is not None}
    keys = [keys_of(run.cfg) for run in runs]
    for run, own in zip(runs, keys, strict=True):
        if run.folder in finished:
            paid |= {key for _, key in own}
    total, unknown = 0.0, 0
    seen: set[Path] = set()
    for words, run, own in zip(jobs, runs, keys, strict=True):
        if run.folder in finished or run.folder in seen:
            table.add_row(words, "the same as above" if run.folder in seen else "finished", "")
            continue
        seen.add(run.folder)
        costs = estimates.of(run.cfg)
        state = "failed before" if (run.folder / "error.json").exists() else "to do"
        if costs is None:
            unknown += 1
            table.add_row(words, state, "?")
            continue
        seconds = own_seconds(own, costs, paid)
        paid |= {key for _, key in own}
        total += seconds
        table.add_row(words, state, duration_in_words(seconds))
    at_once = max((c.jobs for c in configs), default=1)
    more = f", {unknown} more unknown: their data are not here" if unknown else ""
    table.caption = (
        f"{len(jobs)} jobs, {len(seen)} to do; device time {duration_in_words(total)}{more}; "
        f"{duration_in_words(total / at_once)} with {at_once} at once"
    )
    return table


def own_seconds(keys: Keys, costs: Costs, paid: Container[str]) -> float:
    """What a job costs but for its stages that are paid; no other run has what is no stage."""
    names = {name for name, _ in keys}
    others = sum(seconds for name, seconds in costs.items() if name not in names)
    return others + sum(costs.get(name, 0.0) for name, key in keys if key not in paid)


def keys_of(cfg: Config) -> Keys:
    """Name and key of a run's stages, on a description of its data in place of the data."""
    first, *later = stages_of(cfg)
    with threads_shared(cfg.threads, cfg.jobs):
        computed = Computed.here(pick_device(cfg.device), cfg.networks)
    if not cfg.scenario.needs_data:
        given = [cfg.model.settings(), cfg.model.identity(), cfg.scenario.identity(), cfg.seed]
        return chain([first, *later], given, computed)
    data = [cfg.data, cfg.data_dir, cfg.image_size, cfg.per_class, cfg.scenario.labels()]
    original = chain([first], [data, cfg.track_predictions], computed)
    shots = [cfg.scenario.folder, relevant(cfg).get("shot"), cfg.seed, cfg.track_predictions]
    return original + chain(later, [original, shots], computed)


class Estimates:
    """Seconds of jobs' stages: as in a finished run of the same length, else from timed steps.

    Args:
        configs: jobs, whose output folders are searched.
    """

    def __init__(self, configs: Sequence[Config]) -> None:
        self._measured: dict[str, Costs] = {}
        self._steps: dict[str, float] = {}
        self._tasks: dict[str, Task] = {}
        for root in sorted({c.output_dir for c in configs}):
            for path in sorted(Path(root, "runs").rglob("metrics.json")):
                record = Record.read(path.parent)
                if record is not None:
                    self._measured[length(record.config)] = record.seconds

    def of(self, cfg: Config) -> Costs | None:
        """Of a job; None where its stages cannot be timed for want of the data."""
        # As JSON gives them back: lists for tuples.
        own = length(json.loads(json.dumps(relevant(cfg))))
        data = Path(cfg.data_dir)
        if not cfg.scenario.needs_data:  # how large the images are, only the model tells
            return self._measured.get(own)
        if own in self._measured or not SOURCES[cfg.data]().here(data):
            return self._measured.get(own)
        key = hash_of([asdict(cfg.scenario), cfg.data, cfg.data_dir, cfg.image_size, cfg.per_class])
        if key not in self._tasks:
            self._tasks[key] = load_task(
                cfg.scenario, cfg.data, data, cfg.image_size, cfg.per_class
            )
        task, device = self._tasks[key], pick_device(cfg.device)
        with threads_shared(cfg.threads, cfg.jobs):
            self._measured[own] = stage_seconds(cfg, task, device, self._steps)
        return self._measured[own]


def length(values: dict[str, Any]) -> str:
    """What a run's stages last as long as those of: its settings but for seed, shots, intention and
    what the scenario forgets."""
    varying = ("seed", "shot", "intention", "scenario")
    known = {k: v for k, v in values.items() if k not in varying}
    return hash_of([known, values["scenario"]["name"]])
