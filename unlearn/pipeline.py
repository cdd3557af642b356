"""One run: scenario -> original model -> inversion -> filtration -> relearning -> evaluation."""

from __future__ import annotations

import csv
import io
import logging
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from unlearn import pictures
from unlearn.computing import Computing
from unlearn.estimate import in_words, stage_seconds
from unlearn.evaluation import Evaluation, accuracies, evaluate, share
from unlearn.machine import commit, hardware, pick_device
from unlearn.methods import Job, Made, few_shot, get_original, unlearn_by_baseline
from unlearn.models.probe import predict
from unlearn.runs import (
    ANSWERS,
    answers,
    compare,
    config_hash,
    make_writable,
    run_folder,
    run_lock,
    write_metrics,
)
from unlearn.scenarios import Shots, Task, load_task, take_shots
from unlearn.settings import Config, method_of, relevant
from unlearn.store import Store, state_of, write_tensors, write_text
from unlearn.tracking import tracker
from unlearn.trainer import check_devices
from unlearn.version import __version__

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "kneed")


def run(cfg: Config, job: int = 0) -> dict[str, Any]:
    """Do one checked configuration, or find it done.

    Returns:
        The content of ``metrics.json``, with its ``path`` added.

    Raises:
        UserError: if the data, the output folder or the training cannot be used.
    """
    folder = run_folder(cfg)
    done = compare(cfg)
    if done:
        log.info("finished before; delete %s to run it again", folder)
        return done
    device = pick_device(cfg.device, job)
    check_devices(cfg.trainer.devices, device)
    Computing(cfg.precision, cfg.compile).check(device, cfg.trainer.devices)
    task = load_task(cfg.scenario, cfg.data, Path(cfg.data_dir), cfg.image_size, cfg.per_class)
    shots = take_shots(task, cfg.shot, cfg.seed)
    make_writable(folder)
    with run_lock(folder):
        done = compare(cfg)
        if done is None:
            _run(cfg, folder, device, task, shots)
            done = compare(cfg)
    assert done is not None
    return done


def _run(cfg: Config, folder: Path, device: torch.device, task: Task, shots: Shots) -> None:
    job = Job(cfg, folder, device, task, shots, Store(Path(cfg.output_dir) / "store"))
    log.info("%s, %s: %s, on %s", cfg.scenario.name, method_of(cfg), what_is_given(job), device)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(cfg)))
    if device.type == "cpu" and cfg.scale == "paper":
        expected = sum(stage_seconds(cfg, task, device).values())
        log.warning(
            "no GPU: the paper's scale takes about %s here; scale=demo takes minutes",
            in_words(expected),
        )
    with tracker(cfg, folder, config_hash(cfg)) as track:
        job.logger = track
        original, remark = get_original(job)
        predicted = predict(original, task.test.x)
        before = accuracies(task, predicted)
        log.info("original: D_r %.2f %%, D_e %.2f %%", 100 * before["D_r"], 100 * before["D_e"])
        made = unlearn_by_baseline(job, original) if cfg.baseline else few_shot(job, original)
        start = time.perf_counter()
        after = evaluate(made.model, task, cfg.seed)
        made.seconds = {
            "training": remark["seconds"],
            **made.seconds,
            "evaluation": time.perf_counter() - start,
        }
        made.history = {"training": remark["history"], **made.history}
        if "predictions" in remark:
            made.predictions = {"training": remark["predictions"], **made.predictions}
        write_tensors(folder / "unlearned.safetensors", state_of(made.model))
        write_tensors(folder / ANSWERS, answers(after.test.probabilities, task.test_forget))
        write_text(folder / "history.csv", history_csv(made.history))
        draw(job, made, predicted, after.predicted)
        write_metrics(folder, record(job, made, predicted, after))
        track.finish(compare(cfg) or {}, made.history, folder / "pictures")


def record(job: Job, made: Made, before: Tensor, after: Evaluation) -> dict[str, Any]:
    """The content of ``metrics.json``; ``before`` is what the original predicts on the test set."""
    cfg, task, known = job.cfg, job.task, relevant(job.cfg)
    original = {f"original_{k}": v for k, v in accuracies(task, before).items()}
    still = [share(p[task.test_forget] == task.target) for p in (before, after.predicted)]
    return {
        "scenario": cfg.scenario.name,
        "method": method_of(cfg),
        "intention": cfg.intention.name if "intention" in known else None,
        "shot": known.get("shot"),
        "shots": len(job.shots.images) if "shot" in known else int(task.forget.sum()),
        "seed": known.get("seed"),
        "scale": cfg.scale,
        "data": cfg.data,
        "note": task.source.note,
        "classes": task.classes,
        "experiment": cfg.experiment,
        "config": known,
        "config_hash": config_hash(cfg),
        "metrics": {**after.metrics, **original},
        "still_target": {"before": still[0], "after": still[1]},
        **made.facts,
        **({"predictions": made.predictions} if cfg.track_predictions else {}),
        "seconds": made.seconds,
        "hardware": hardware(job.device),
        "computed_in": str(job.computing.dtype(job.device) or torch.float32).split(".")[1],
        "versions": {
            "commit": commit(),
            "few-shot-unlearning": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def what_is_given(job: Job) -> str:
    """What the method is handed, in words."""
    number, all_of_it = len(job.shots.images), int(job.task.forget.sum())
    if job.cfg.baseline is None:
        return f"intention {job.cfg.intention.name}, {number} of {all_of_it} images of D_e given"
    if "shot" in relevant(job.cfg):
        return f"all of D, {number} of {all_of_it} images of D_e given"
    return f"all of D and of D_e ({all_of_it} images) given"


def draw(job: Job, made: Made, before: Tensor, after: Tensor) -> None:
    """The run's pictures; ``before`` and ``after`` are predicted classes (M,) of the test set."""
    task, folder = job.task, job.folder / "pictures"
    for name, figure in made.figures.items():
        pictures.save(figure(), folder / f"{name}.png")
    chosen = task.test_forget.nonzero()[:36, 0]
    texts = [most_frequent(p[chosen], task.classes) for p in (before, after)]
    limited = "shot" in relevant(job.cfg)
    given = job.shots.images if limited else task.train.x[task.forget].float() / 255
    overview = pictures.draw_overview(given, made.proxy, task.test.x[chosen], *texts)
    pictures.save(overview, folder / "overview.png")


def most_frequent(predicted: torch.Tensor, classes: list[str]) -> str:
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
