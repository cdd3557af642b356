"""What a sweep will do: its jobs, which of them are finished, how long the rest will take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from unlearn.data import SOURCES
from unlearn.estimate import in_words, stage_seconds
from unlearn.machine import pick_device
from unlearn.runs import config_hash, finished, run_folder
from unlearn.scenarios import load_task
from unlearn.settings import Config, relevant
from unlearn.store import hash_of

Costs = dict[str, float]


def plan(jobs: list[str], configs: list[Config]) -> Table:
    """The jobs as a table. Stages that several jobs share are counted once.

    A stage costs what it took in a finished run of the same length on this output_dir, else what
    a few timed steps on this machine say.
    """
    known = measured(configs)
    timed: dict[str, Costs | None] = {}
    paid: set[str] = set()
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
        costs = costs_of(cfg, known, timed)
        state = "failed before" if (folder / "error.json").exists() else "to do"
        if costs is None:
            unknown += 1
            table.add_row(words, state, "?")
            continue
        own = sum(costs.get(name, 0.0) for name, key in stages(cfg) if key not in paid)
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


def stages(cfg: Config) -> list[tuple[str, str]]:
    """The stages of a run with what tells them apart from other runs', in place of their keys in
    the store, which only the data can tell."""
    values = relevant(cfg)
    # Scenarios on the same labels share their original.
    labels = cfg.scenario.name if cfg.scenario.knows_correct else ""
    shared = ("data", "image_size", "per_class", "model", "training", "augment")
    computing = ("precision", "compile")
    original = hash_of([labels, {k: values[k] for k in (*shared, *computing)}])
    if cfg.baseline is not None:
        return [("training", original), (cfg.baseline.name, hash_of(values))]
    inversion = hash_of([{k: v for k, v in values.items() if k not in ("intention", "relearning")}])
    return [("training", original), ("inversion", inversion), ("relearning", hash_of(values))]


def length(values: dict[str, Any]) -> str:
    """What a run's stages last as long as those of: its settings but for seed, shots, intention."""
    varying = ("seed", "shot", "intention", "scenario")
    scenario = {k: v for k, v in values["scenario"].items() if k not in ("digit", "class_name")}
    return hash_of([{k: v for k, v in values.items() if k not in varying}, scenario])


def measured(configs: Iterable[Config]) -> dict[str, Costs]:
    """Stage seconds of the finished runs beside these jobs', by ``length``."""
    known: dict[str, Costs] = {}
    for root in {cfg.output_dir for cfg in configs}:
        for path in sorted(Path(root, "runs").glob("*/*/*/metrics.json")):
            try:
                metrics = json.loads(path.read_text())
                known[length(metrics["config"])] = metrics["seconds"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not a run of this version
    return known


def costs_of(cfg: Config, known: dict[str, Costs], timed: dict[str, Costs | None]) -> Costs | None:
    """Seconds of a job's stages; None where they cannot be told for want of the data."""
    # As JSON gives them back: lists for tuples.
    key = length(json.loads(json.dumps(relevant(cfg))))
    if key in known:
        return known[key]
    if key not in timed:
        data = Path(cfg.data_dir)
        if SOURCES[cfg.data]().here(data):
            task = load_task(cfg.scenario, cfg.data, data, cfg.image_size, cfg.per_class)
            timed[key] = stage_seconds(cfg, task, pick_device(cfg.device))
        else:
            timed[key] = None
    return timed[key]
