"""Runs on disk: one folder for each configuration, found again by its hash."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unlearn.checkpoint import checkpoint_identity
from unlearn.data import SOURCES
from unlearn.errors import UserError
from unlearn.measures import agreement, js_divergence, tug_of_war
from unlearn.settings import Config, method_of, relevant, resolve
from unlearn.store import hash_of, write_text
from unlearn.version import __version__

ANSWERS = "answers.safetensors"


def config_hash(cfg: Config) -> str:
    """16 hex digits that stand for all that a run's result depends on."""
    source = SOURCES[cfg.data]().identity(Path(cfg.data_dir))
    own = checkpoint_identity(cfg.model.checkpoint)
    return hash_of([__version__, relevant(cfg), source, cfg.scenario.identity(), own])


def run_folder(cfg: Config) -> Path:
    """The run's folder, from its configuration alone."""
    known = relevant(cfg)
    what = getattr(cfg.scenario, "digit", getattr(cfg.scenario, "class_name", None))
    scenario = cfg.scenario.name if what is None else f"{cfg.scenario.name}-{what}"
    method = f"{method_of(cfg)}-{cfg.intention.name}" if "intention" in known else method_of(cfg)
    knobs = [f"{k}{known[k]}" for k in ("shot", "seed") if k in known]
    leaf = "-".join([*knobs, cfg.scale, config_hash(cfg)])
    return Path(cfg.output_dir) / "runs" / scenario / method / leaf


def run_lock(folder: Path) -> FileLock:
    """What the process holds that computes a run."""
    return FileLock(folder.with_name(folder.name + ".lock"))


def finished(folder: Path, wanted: str) -> dict[str, Any] | None:
    """The metrics of a finished run of the same configuration, or None."""
    try:
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return None
    return metrics if metrics.get("config_hash") == wanted else None


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write ``metrics.json`` at once, and forget that the run ever failed."""
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    (folder / "error.json").unlink(missing_ok=True)


def write_failure(cfg: Config, error: str) -> None:
    """Leave ``error.json`` in the run's folder, if the run came so far as to make one."""
    folder = run_folder(cfg)
    if folder.is_dir():
        failure = {
            "error": error,
            "scenario": cfg.scenario.name,
            "method": method_of(cfg),
            "seed": relevant(cfg).get("seed"),
            "scale": cfg.scale,
            "config": relevant(cfg),
        }
        write_text(folder / "error.json", json.dumps(failure, indent=1) + "\n")


def make_writable(folder: Path) -> None:
    """Make the run's folder.

    Raises:
        UserError: if output_dir cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError("output_dir", f"cannot be written ({error})") from error


@cache
def preset(baseline: str, scale: str, intention: str = "std") -> Config:
    """The values that conf/ gives a baseline and an intention; not to be changed."""
    return resolve([f"baseline={baseline}", f"scale={scale}", f"intention={intention}"])


def matching_oracle(cfg: Config) -> Config:
    """The oracle that a run is measured against: of its intention, or of the one that its baseline
    aims at, with all of D_e and the same seed."""
    aim = cfg.baseline.aim if cfg.baseline is not None else None
    return replace(
        cfg,
        baseline=preset("oracle", cfg.scale).baseline,
        intention=cfg.intention if aim is None else preset("oracle", cfg.scale, aim).intention,
        shot=1.0,
        seed=relevant(cfg).get("seed", 0),
        track_predictions=False,
    )


def distance_to_oracle(cfg: Config, folder: Path) -> dict[str, float]:
    """How far a finished run's answers on the test set are from the matching oracle's.

    Returns:
        ``oracle_agreement`` (share of equal predictions) and ``oracle_js`` (nats), on the whole
        test set and, with ``_D_e``, on the images like D_e; ``oracle_abs_D_r``,
        ``oracle_abs_D_e`` and ``tug_of_war`` (all shares). Empty if there is no such oracle, or
        the run is that oracle.
    """
    theirs = run_folder(matching_oracle(cfg))
    if theirs == folder:
        return {}
    oracle = finished(theirs, config_hash(matching_oracle(cfg)))
    ours = finished(folder, config_hash(cfg))
    try:
        p, q = (load_file(f / ANSWERS) for f in (folder, theirs))
    except (OSError, SafetensorError):
        return {}
    if oracle is None or ours is None:
        return {}
    erased = p["forget"].bool()
    d_r, d_e = (abs(ours["metrics"][k] - oracle["metrics"][k]) for k in ("D_r", "D_e"))
    a, b = p["probabilities"], q["probabilities"]
    return {
        "oracle_agreement": agreement(a, b),
        "oracle_agreement_D_e": agreement(a[erased], b[erased]),
        "oracle_js": js_divergence(a, b),
        "oracle_js_D_e": js_divergence(a[erased], b[erased]),
        "oracle_abs_D_r": d_r,
        "oracle_abs_D_e": d_e,
        "tug_of_war": tug_of_war(
            ours["metrics"]["D_r"],
            ours["metrics"]["D_e"],
            oracle["metrics"]["D_r"],
            oracle["metrics"]["D_e"],
        ),
    }


def compare(cfg: Config) -> dict[str, Any] | None:
    """A finished run's metrics, its distance to the oracle brought up to date; None if unfinished.

    The oracle may have been trained after the run was.
    """
    folder = run_folder(cfg)
    metrics = finished(folder, config_hash(cfg))
    if metrics is None:
        return None
    distance = distance_to_oracle(cfg, folder)
    if any(metrics["metrics"].get(k) != v for k, v in distance.items()):
        metrics["metrics"].update(distance)
        write_metrics(folder, metrics)
    return {**metrics, "path": str(folder / "metrics.json")}


def answers(probabilities: Tensor, forget: Tensor) -> dict[str, Tensor]:
    """What ``distance_to_oracle`` needs of a run: its softmax on the test set, and D_e in it."""
    return {"probabilities": probabilities.float().contiguous(), "forget": forget.to(torch.uint8)}
