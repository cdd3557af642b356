"""One run: scenario -> original model -> inversion -> filtration -> relearning -> evaluation."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from omegaconf import OmegaConf
from torch import nn

from unlearn import pictures
from unlearn.checkpoint import checkpoint_identity, load_checkpoint
from unlearn.data import SOURCES
from unlearn.errors import UserError
from unlearn.estimate import estimate_seconds
from unlearn.evaluation import accuracies, answered, predict
from unlearn.filtration import NotSeparable
from unlearn.forget import forget
from unlearn.models import build
from unlearn.scenarios import Shots, Task, load_task, take_shots
from unlearn.settings import Config, relevant, unlearner_settings
from unlearn.stage import seeded_init
from unlearn.store import Store, fingerprint, hash_of, state_of, write_tensors, write_text
from unlearn.tracking import tracker
from unlearn.training import train
from unlearn.unlearner import Result
from unlearn.version import __version__

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "kneed")


def config_hash(cfg: Config) -> str:
    """16 hex digits that stand for all that a run's result depends on."""
    source = _source(cfg).identity(Path(cfg.data_dir))
    own = checkpoint_identity(cfg.model.checkpoint)
    return hash_of([__version__, relevant(cfg), source, cfg.scenario.identity(), own])


def run_folder(cfg: Config) -> Path:
    """The run's folder, from its configuration alone."""
    what = getattr(cfg.scenario, "digit", getattr(cfg.scenario, "class_name", None))
    scenario = cfg.scenario.name if what is None else f"{cfg.scenario.name}-{what}"
    leaf = f"shot{cfg.shot}-seed{cfg.seed}-{cfg.scale}-{config_hash(cfg)}"
    return Path(cfg.output_dir) / "runs" / scenario / f"ours-{cfg.intention.name}" / leaf


def run(cfg: Config) -> dict[str, Any]:
    """Do one checked configuration, or find it done.

    Returns:
        The content of ``metrics.json``, with its ``path`` added.

    Raises:
        UserError: if the data, the output folder or the training cannot be used.
    """
    folder = run_folder(cfg)
    done = finished(folder, config_hash(cfg))
    if done:
        log.info("finished before; delete %s to run it again", folder)
        return done
    device = pick_device(cfg.device)
    task = load_task(cfg.scenario, cfg.data, Path(cfg.data_dir), cfg.image_size, cfg.per_class)
    shots = take_shots(task, cfg.shot, cfg.seed)
    make_writable(folder)
    with FileLock(folder.with_name(folder.name + ".lock")):
        done = finished(folder, config_hash(cfg))
        return done or _run(cfg, folder, device, task, shots)


def finished(folder: Path, wanted: str) -> dict[str, Any] | None:
    """The metrics of a finished run of the same configuration, or None."""
    path = folder / "metrics.json"
    try:
        metrics: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return {**metrics, "path": str(path)} if metrics.get("config_hash") == wanted else None


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


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, else the CPU.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            "device", f"{name!r} is not here (auto, cpu, cuda, cuda:N): {reason}"
        ) from error
    return device


def _run(
    cfg: Config, folder: Path, device: torch.device, task: Task, shots: Shots
) -> dict[str, Any]:
    log.info(
        "%s, intention %s: %d of %d images of D_e given, on %s",
        cfg.scenario.name,
        cfg.intention.name,
        len(shots.images),
        int(task.forget.sum()),
        device,
    )
    store = Store(Path(cfg.output_dir) / "store")
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    if device.type == "cpu" and cfg.scale == "paper":
        expected = estimate_seconds(cfg, task)
        log.warning(
            "no GPU: the paper's scale takes about %s here; scale=demo takes minutes",
            in_words(expected),
        )
    pictures.save(pictures.draw_shots(shots.images), folder / "pictures" / "shots.png")
    with tracker(cfg, folder, config_hash(cfg)) as track:
        original, remark = get_original(cfg, store, task, device, track)
        before = accuracies(original, task)
        log.info("original: D_r %.2f %%, D_e %.2f %%", 100 * before["D_r"], 100 * before["D_e"])
        correct = None if task.correct is None else torch.full_like(shots.labels, task.correct)
        grid = pictures.SampleGrid(folder / "pictures", task.classes, cfg.inversion.grid_every)
        try:
            result = forget(
                original,
                shots.images,
                shots.labels,
                cfg.intention,
                correct,
                settings=unlearner_settings(cfg),
                seed=cfg.seed,
                store=store.root,
                callbacks=[grid],
                logger=track,
                progress=True,
            )
        except NotSeparable as error:
            if error.proxy is not None:
                for name, figure in {
                    "filtration": pictures.draw_filtration(error.proxy, task.classes),
                    "knee": pictures.draw_knee(error.proxy),
                }.items():
                    pictures.save(figure, folder / "pictures" / f"{name}.png")
            raise UserError(
                error.key, f"{str(error).split(': ', 1)[1]} (pictures in {folder / 'pictures'})"
            ) from error
        start = time.perf_counter()
        after = accuracies(result.model, task)
        history = {"training": remark["history"], **result.history}
        seconds = {"training": remark["seconds"], **result.seconds}
        seconds["evaluation"] = time.perf_counter() - start
        metrics: dict[str, Any] = {
            "scenario": cfg.scenario.name,
            "method": "ours",
            "intention": cfg.intention.name,
            "shot": cfg.shot,
            "shots": len(shots.images),
            "seed": cfg.seed,
            "scale": cfg.scale,
            "data": cfg.data,
            "note": task.source.note,
            "config_hash": config_hash(cfg),
            "metrics": {
                **after,
                "original_D_r": before["D_r"],
                "original_D_e": before["D_e"],
            },
            "still_target": {
                "before": answered(original, task, task.target),
                "after": answered(result.model, task, task.target),
            },
            "target_like": int(result.proxy.target_like.sum()),
            "samples": len(result.proxy.conditions),
            "threshold": result.threshold,
            "seconds": seconds,
            "hardware": hardware(device),
            "versions": {
                "few-shot-unlearning": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in LIBRARIES},
            },
        }
        write_tensors(folder / "unlearned.safetensors", state_of(result.model))
        write_text(folder / "history.csv", history_csv(history))
        draw(folder / "pictures", task, shots, original, result)
        write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        track.finish(metrics, history, folder / "pictures")
    return {**metrics, "path": str(folder / "metrics.json")}


def get_original(
    cfg: Config, store: Store, task: Task, device: torch.device, logger: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """The original model in eval mode: one's own checkpoint, or trained, or from the store."""
    with seeded_init(cfg.training.seed, "original"):
        model = build(
            cfg.model, task.shape[0], len(task.classes), task.source.mean, task.source.std
        )
    if cfg.model.checkpoint is not None:
        load_checkpoint(model, cfg.model.checkpoint)
        return model.to(device).eval(), {"history": [], "seconds": 0.0}

    def make() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        start = time.perf_counter()
        history = train(
            cfg.training, model, task.train, cfg.augment, device, logger=logger, progress=True
        )
        remark = {"history": history, "seconds": time.perf_counter() - start}
        return state_of(model), remark

    key = {
        "version": __version__,
        "model": asdict(cfg.model),
        "training": asdict(cfg.training),
        "augment": asdict(cfg.augment),
        "data": fingerprint({"x": task.train.x, "y": task.train.y}),
    }
    state, remark = store.get("original", key, make)
    model.load_state_dict(state)
    return model.to(device).eval(), remark


def draw(folder: Path, task: Task, shots: Shots, original: nn.Module, result: Result) -> None:
    """The run's pictures: samples, filtration, knee, overview."""
    chosen = task.test_forget.nonzero()[:36, 0]
    test = task.test.x[chosen]
    before, after = (
        answers(predict(model, test), task.classes) for model in (original, result.model)
    )
    figures: dict[str, Callable[[], Any]] = {
        "samples": lambda: pictures.draw_samples(result.generator, task.classes, "generator"),
        "filtration": lambda: pictures.draw_filtration(result.proxy, task.classes),
        "knee": lambda: pictures.draw_knee(result.proxy),
        "overview": lambda: pictures.draw_overview(shots.images, result.proxy, test, before, after),
    }
    for name, figure in figures.items():
        pictures.save(figure(), folder / f"{name}.png")


def answers(predicted: torch.Tensor, classes: list[str]) -> str:
    """The most frequent answers: ``7 x33, 2 x3``."""
    counts = torch.bincount(predicted, minlength=len(classes))
    top = counts.argsort(descending=True, stable=True)[:3].tolist()
    return ", ".join(f"{classes[c]} \u00d7{int(counts[c])}" for c in top if counts[c])


def history_csv(history: dict[str, list[dict[str, float]]]) -> str:
    """Every stage's losses in long form: stage, step, name, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stage", "step", "name", "value"])
    for stage, rows in history.items():
        for row in rows:
            for name, value in row.items():
                if name != "step":
                    writer.writerow([stage, int(row["step"]), name, value])
    return text.getvalue()


def hardware(device: torch.device) -> str:
    """What the run computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [
        line.split(":", 1)[1].strip()
        for line in _read("/proc/cpuinfo").splitlines()
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"CPU, {torch.get_num_threads()} threads of {name}"


def in_words(seconds: float) -> str:
    """A duration to one significant unit."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _source(cfg: Config) -> Any:
    return SOURCES[cfg.data]()
