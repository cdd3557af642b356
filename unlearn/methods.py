"""The methods of a run: the original, ours, and the baselines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearn import pictures
from unlearn.baselines import FullAccess
from unlearn.checkpoint import load_checkpoint
from unlearn.computing import Computing
from unlearn.errors import UserError
from unlearn.filtration import NotSeparable, Proxy
from unlearn.forget import forget
from unlearn.models import Classifier, build
from unlearn.scenarios import Shots, Task, shot_mask
from unlearn.settings import Config, relevant, unlearner_settings
from unlearn.stage import seeded_init
from unlearn.store import Store, fingerprint, state_of
from unlearn.training import train
from unlearn.version import __version__
from unlearn.watch import Watch, key_of, remark_of


@dataclass
class Made:
    """What a method made of the original.

    Attributes:
        model: the unlearned model, in eval mode.
        history, seconds: of each stage.
        predictions: answers on the test D_e over each stage's epochs, if asked for.
        facts: what else ``metrics.json`` says of the method.
        figures: pictures by name, drawn when they are written.
        proxy: the samples that stood in for the training data; ours only.
    """

    model: nn.Module
    history: dict[str, list[dict[str, float]]]
    seconds: dict[str, float]
    predictions: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Callable[[], Any]] = field(default_factory=dict)
    proxy: Proxy | None = None


@dataclass
class Job:
    """One run at work."""

    cfg: Config
    folder: Path
    device: torch.device
    task: Task
    shots: Shots
    store: Store
    logger: Any = None

    @cached_property
    def watch(self) -> Watch | None:
        """The test images like D_e, where the answers on them are to be followed (Figure 4)."""
        if not self.cfg.track_predictions:
            return None
        return Watch(self.task.test.x[self.task.test_forget], len(self.task.classes))

    @property
    def computing(self) -> Computing:
        """How its networks compute while they are trained."""
        return Computing(self.cfg.precision, self.cfg.compile)

    def fitting(self) -> dict[str, Any]:
        """How the job's trained stages are shown and spread."""
        return {
            "logger": self.logger,
            "progress": True,
            "watch": self.watch,
            "devices": self.cfg.trainer.devices,
        }


def classifier(cfg: Config, task: Task) -> Classifier:
    """A freshly initialised classifier for a task."""
    return build(cfg.model, task.shape[0], len(task.classes), task.source.mean, task.source.std)


def get_original(job: Job) -> tuple[Classifier, dict[str, Any]]:
    """The original model in eval mode: one's own checkpoint, or trained, or from the store."""
    cfg, task = job.cfg, job.task
    with seeded_init(cfg.training.seed, "original"):
        model = classifier(cfg, task)
    if cfg.model.checkpoint is not None:
        load_checkpoint(model, cfg.model.checkpoint)
        return model.to(job.device).eval(), {"history": [], "seconds": 0.0}

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        start = time.perf_counter()
        history = train(
            cfg.training,
            model,
            task.train,
            cfg.augment,
            job.device,
            **job.fitting(),
            computing=job.computing,
        )
        remark = {"history": history, "seconds": time.perf_counter() - start}
        return state_of(model), remark | remark_of(job.watch, "training")

    key = {
        "version": __version__,
        "model": asdict(cfg.model),
        "training": asdict(cfg.training),
        "augment": asdict(cfg.augment),
        "computing": asdict(job.computing),
        "data": fingerprint({"x": task.train.x, "y": task.train.y}),
    }
    state, remark = job.store.get("original", key | key_of(job.watch), make)
    model.load_state_dict(state)
    return model.to(job.device).eval(), remark


def few_shot(job: Job, original: Classifier) -> Made:
    """Ours: the unlearner is handed the model, the shots and the intention, and no data."""
    cfg, task, shots, folder = job.cfg, job.task, job.shots, job.folder / "pictures"
    correct = None if task.correct is None else torch.full_like(shots.labels, task.correct)
    pictures.save(pictures.draw_shots(shots.images), folder / "shots.png")
    try:
        result = forget(
            original,
            shots.images,
            shots.labels,
            cfg.intention,
            correct,
            settings=unlearner_settings(cfg),
            seed=cfg.seed,
            store=job.store.root,
            callbacks=[pictures.SampleGrid(folder, task.classes, cfg.inversion.grid_every)],
            **job.fitting(),
        )
    except NotSeparable as error:
        if error.proxy is not None:
            draw = pictures.draw_filtration(error.proxy, task.classes)
            pictures.save(draw, folder / "filtration.png")
            pictures.save(pictures.draw_knee(error.proxy), folder / "knee.png")
        raise UserError(
            error.key, f"{str(error).split(': ', 1)[1]} (pictures in {folder})"
        ) from error
    proxy = result.proxy
    return Made(
        result.model,
        result.history,
        result.seconds,
        result.predictions,
        {
            "target_like": int(proxy.target_like.sum()),
            "samples": len(proxy.conditions),
            "threshold": result.threshold,
        },
        {
            "samples": lambda: pictures.draw_samples(result.generator, task.classes, "generator"),
            "filtration": lambda: pictures.draw_filtration(proxy, task.classes),
            "knee": lambda: pictures.draw_knee(proxy),
        },
        proxy,
    )


def unlearn_by_baseline(job: Job, original: Classifier) -> Made:
    """A baseline: it is handed all of D and D_e."""
    cfg, task, baseline = job.cfg, job.task, job.cfg.baseline
    assert baseline is not None
    given = task.forget
    if "shot" in baseline.uses:
        given = shot_mask(task, cfg.shot, cfg.seed)

    def fresh() -> nn.Module:
        with seeded_init(cfg.seed, baseline.name):
            return classifier(cfg, task)

    def make() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        start = time.perf_counter()
        outcome = baseline.unlearn(
            FullAccess(
                original.requires_grad_(False),
                task,
                given,
                cfg.intention,
                cfg.training,
                cfg.augment,
                fresh,
                cfg.seed,
                {**job.fitting(), "computing": job.computing},
            )
        )
        remark = {"history": outcome.history, "seconds": time.perf_counter() - start}
        if job.watch is not None:
            seen = job.watch.predictions
            remark["predictions"] = {s: seen[s] for s in baseline.stages if s in seen}
        return state_of(outcome.model), remark

    known = relevant(cfg)
    key = {
        "version": __version__,
        "original": fingerprint(original.state_dict()),
        "data": fingerprint({"x": task.train.x, "y": task.train.y, "given": given}),
        "target": [task.target, task.correct],
        "computing": asdict(job.computing),
        "settings": {
            k: known[k]
            for k in ("baseline", "intention", "seed", "model", "training", "augment")
            if k in known
        },
    }
    if baseline.stages:
        state, remark = job.store.get(baseline.name, key | key_of(job.watch), make)
    else:
        state, remark = make()
    model = classifier(cfg, task).to(job.device)
    model.load_state_dict(state)
    figures: dict[str, Callable[[], Any]] = {}
    if baseline.name == "original":
        figures["confusing"] = lambda: pictures.draw_confusing(*confusing(original, task))
    return Made(
        model.eval(),
        {baseline.name: remark["history"]},
        {baseline.name: remark["seconds"]},
        remark.get("predictions", {}),
        figures=figures,
    )


@torch.no_grad()
def confusing(original: Classifier, task: Task, number: int = 36) -> tuple[Tensor, Tensor]:
    """Figure 1: images of D_e, and those of D_r with D_e's label that f_o finds most like them.

    Like is what lies near some image of D_e in the embedding. Where D_e is a whole class, all of
    D_r is searched.

    Returns:
        uint8 images (n, C, H, W) twice, n <= ``number``.
    """
    rest = ~task.forget & (task.train.y == task.target)
    erased, retained = (
        task.train.x[m] for m in (task.forget, rest if rest.any() else ~task.forget)
    )
    device = next(original.parameters()).device
    near, far = (
        torch.cat([original.features(p.to(device).float() / 255).cpu() for p in x.split(500)])
        for x in (erased, retained)
    )
    nearest = torch.cdist(far, near).amin(1).argsort(stable=True)[:number]
    return erased[:number], retained[nearest]
