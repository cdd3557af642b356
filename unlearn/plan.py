"""What a sweep will do: its jobs, which of them are finished, how long the rest will take."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from unlearn.data import SOURCES
from unlearn.estimate import in_words, stage_seconds
from unlearn.machine import pick_device
from unlearn.runs import config_hash, finished, run_folder
from unlearn.scenarios import SCENARIOS, Task, load_task
from unlearn.settings import Config, relevant
from unlearn.store import hash_of
from unlearn.version import __version__

Costs = dict[str, float]
Stages = list[tuple[str, str]]


def plan(jobs: list[str], configs: list[Config]) -> Table:
    """The jobs as a table. Stages that several jobs share are counted once."""
    estimates = Estimates(configs)
    paid = set(estimates.stored)
    table = Table("job", "state", "about", title="nothing is run: --dry-run")
    total, to_do, unknown = 0.0, 0, 0
    seen: set[Path] = set()
    for words, cfg in zip(jobs, configs, strict=True):
        folder = run_folder(cfg)
        if finished(folder, config_hash(cfg)) or folder in seen:
            table.add_row(words, "the same as above" if folder in seen else "finished", "")
            paid |= {key for _, key in stages(cfg)}
            continue
        seen.add(folder)
        to_do += 1
        costs = estimates.of(cfg)
        state = "failed before" if (folder / "error.json").exists() else "to do"
        if costs is None:
            unknown += 1
            table.add_row(words, state, "?")
            continue
        own = own_seconds(stages(cfg), costs, paid)
        paid |= {key for _, key in stages(cfg)}
        total += own
        table.add_row(words, state, in_words(own))
    at_once = max((c.jobs for c in configs), default=1)
    more = f", {unknown} more unknown: their data are not here" if unknown else ""
    table.caption = (
        f"{len(jobs)} jobs, {to_do} to do; device time {in_words(total)}{more}; "
        f"{in_words(total / at_once)} with {at_once} at once"
    )
    return table


def own_seconds(stages: Stages, costs: Costs, paid: Container[str]) -> float:
    """What a job costs but for its stages that are paid; no other run has what is no stage."""
    names = {name for name, _ in stages}
    others = sum(seconds for name, seconds in costs.items() if name not in names)
    return others + sum(costs.get(name, 0.0) for name, key in stages if key not in paid)


def stages(cfg: Config) -> Stages:
    """The stages of a run with what tells them apart from other runs', in place of their keys in
    the store, which only the data can tell."""
    return stages_of(relevant(cfg))


def stages_of(values: dict[str, Any]) -> Stages:
    """``stages`` of a run with these settings."""
    scenario = values["scenario"]["name"]
    # Scenarios on the same labels share their original.
    labels = scenario if SCENARIOS[scenario].knows_correct else ""
    shared = ("data", "image_size", "per_class", "model", "training", "augment")
    computing = ("precision", "compile")
    original = hash_of([labels, {k: values[k] for k in (*shared, *computing)}])
    if values["baseline"] is not None:
        return [("training", original), (values["baseline"]["name"], hash_of(values))]
    later = ("intention", "filtration", "relearning")
    inversion = hash_of({k: v for k, v in values.items() if k not in later})
    return [("training", original), ("inversion", inversion), ("relearning", hash_of(values))]


class Estimates:
    """Seconds of jobs' stages: as in a finished run of the same length, else from timed steps.

    Args:
        configs: jobs, whose output folders are searched.
        elsewhere: more folders of metrics files.

    Attributes:
        stored: stages of runs that are finished in the output folders, so that the store has them.
    """

    def __init__(self, configs: Sequence[Config], elsewhere: Iterable[Path] = ()) -> None:
        self.stored: set[str] = set()
        self.measured: dict[str, Costs] = {}
        self._timed: dict[str, Costs] = {}
        self._steps: dict[str, float] = {}
        self._tasks: dict[str, Task] = {}
        roots = [Path(root, "runs") for root in sorted({c.output_dir for c in configs})]
        for folder in (*elsewhere, *roots):
            for path in sorted(folder.rglob("*.json")):
                try:
                    metrics = json.loads(path.read_text())
                    self.learn(metrics)
                    same = metrics["versions"]["few-shot-unlearning"] == __version__
                    if same and folder in roots:
                        self.stored |= {key for _, key in stages_of(metrics["config"])}
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # not a run of this version

    def learn(self, metrics: dict[str, Any]) -> None:
        """Take a finished run for the measure of all of its length."""
        self.measured[length(metrics["config"])] = metrics["seconds"]

    def is_measured(self, cfg: Config) -> bool:
        """Whether a run of a job's length has finished."""
        return self._length(cfg) in self.measured

    def known(self, cfg: Config) -> Costs | None:
        """Of a job: as measured or as timed before; None if neither."""
        key = self._length(cfg)
        return self.measured.get(key) or self._timed.get(key)

    def of(self, cfg: Config) -> Costs | None:
        """Of a job; None where its stages cannot be timed for want of the data."""
        known, data = self.known(cfg), Path(cfg.data_dir)
        if known is not None or not SOURCES[cfg.data]().here(data):
            return known
        key = hash_of([asdict(cfg.scenario), cfg.data, cfg.data_dir, cfg.image_size, cfg.per_class])
        if key not in self._tasks:
            self._tasks[key] = load_task(
                cfg.scenario, cfg.data, data, cfg.image_size, cfg.per_class
            )
        costs = stage_seconds(cfg, self._tasks[key], pick_device(cfg.device), self._steps)
        self._timed[self._length(cfg)] = costs
        return costs

    @staticmethod
    def _length(cfg: Config) -> str:
        # As JSON gives them back: lists for tuples.
        return length(json.loads(json.dumps(relevant(cfg))))


def length(values: dict[str, Any]) -> str:
    """What a run's stages last as long as those of: its settings but for seed, shots, intention."""
    varying = ("seed", "shot", "intention", "scenario")
    scenario = {k: v for k, v in values["scenario"].items() if k not in ("digit", "class_name")}
    return hash_of([{k: v for k, v in values.items() if k not in varying}, scenario])
