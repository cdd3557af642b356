"""Runs on disk: one folder for each configuration, found again by its hash."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unlearn.baselines.base import BaselineStage
from unlearn.config import (
    Config,
    known_by,
    method_of,
    relevant,
    resolve,
    unlearner_settings,
)
from unlearn.data import SOURCES
from unlearn.engine.device import checkout
from unlearn.engine.seeding import seeded_init
from unlearn.engine.stages import Stage
from unlearn.engine.store import (
    fingerprint,
    hash_of,
    locked,
    make_folder,
    write_tensors,
    write_text,
)
from unlearn.errors import UserError
from unlearn.evaluation import VERSION, distances
from unlearn.models import MODELS, Classifier, build
from unlearn.models.answers import answers
from unlearn.models.probe import end_of
from unlearn.runs.record import Failure, Record
from unlearn.scenarios import Task
from unlearn.training import Training
from unlearn.version import __version__

log = logging.getLogger(__name__)

PACKAGE = "few-shot-unlearning"
ANSWERS = "answers.safetensors"
WEIGHTS = "unlearned.safetensors"


def stages_of(cfg: Config) -> list[Stage]:
    """The stages of a run, in their order, without what only the data can tell."""
    if not cfg.scenario.needs_data:
        return list(unlearner_settings(cfg).stages(cfg.intention))
    training = Training(cfg.training, cfg.model, cfg.augment)
    if cfg.full_access is not None:
        return [training, BaselineStage(cfg.full_access, relevant(cfg))]
    return [training, *unlearner_settings(cfg).stages(cfg.intention)]


def network_for(cfg: Config, task: Task) -> Classifier:
    """A freshly initialised network for a task."""
    (channels, *size), source = task.shape, task.source
    classes = len(task.classes)
    return build(cfg.model, channels, classes, source.mean, source.std, (size[0], size[1]))


def check_network(cfg: Config, task: Task) -> None:
    """Refuse a network that cannot take a task's images, or answers other than its classes.

    Raises:
        UserError: naming the model.
    """
    if cfg.model.name in MODELS.list():  # ours take any
        return
    with seeded_init(cfg.training.seed, "original"):
        model = network_for(cfg, task)
    images = torch.zeros(2, *task.shape)
    seen = answers(model, images, training=True).logits.shape[1]
    if seen != len(task.classes):
        raise UserError("model", f"it answers {seen} classes; the data has {len(task.classes)}")
    if end_of(model.eval(), images).layer is None:
        raise UserError("model", "it does not end in a linear layer, which the measures need")


class Run:
    """One run's place on the disk. What it is called is worked out once.

    Attributes:
        cfg: its checked configuration.
        place: the folder where it lies; None: where its configuration puts it.
    """

    def __init__(self, cfg: Config, place: Path | None = None) -> None:
        self.cfg, self.place = cfg, place

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that its result depends on."""
        return relevant(self.cfg)

    @cached_property
    def hash(self) -> str:
        """16 hex digits for all that its result depends on: settings, images, versions of stages.

        Raises:
            UserError: if the images or the checkpoint cannot be read.
        """
        return self.hash_for({})

    def hash_for(self, versions: dict[str, int]) -> str:
        """Its hash if stages had other versions than they have now.

        Raises:
            UserError: if the images or the checkpoint cannot be read.
        """
        cfg = self.cfg
        needs = cfg.scenario.needs_data
        source = SOURCES[cfg.data]().identity(Path(cfg.data_dir)) if needs else ""
        own = cfg.model.identity()
        versions = {s.name: versions.get(s.name, s.VERSION) for s in stages_of(cfg)}
        return hash_of([versions, known_by(cfg), source, cfg.scenario.identity(), own])

    @property
    def seed(self) -> int:
        """Of all that is drawn; 0 where its result does not depend on the configuration's."""
        return int(self.settings.get("seed", 0))

    @cached_property
    def folder(self) -> Path:
        """Where it is kept."""
        if self.place is not None:
            return self.place
        cfg, known = self.cfg, self.settings
        method = method_of(cfg)
        if "intention" in known:
            method = f"{method}-{cfg.intention.name}"
        knobs = [f"{k}{known[k]}" for k in ("shot", "seed") if k in known]
        leaf = "-".join([*knobs, cfg.scale, self.hash])
        return Path(cfg.output_dir) / "runs" / cfg.scenario.folder / method / leaf

    @cached_property
    def oracle(self) -> Run | None:
        """The run that it is measured against: the oracle of its intention, or of the one that its
        baseline aims at, with all of D_e and the same seed; None for that oracle itself, and where
        there is no D."""
        cfg = self.cfg
        if not cfg.scenario.needs_data:
            return None
        aim = cfg.baseline.aim if cfg.baseline is not None else None
        theirs = Run(
            replace(
                cfg,
                baseline=_preset("oracle", cfg.scale).baseline,
                intention=cfg.intention
                if aim is None
                else _preset("oracle", cfg.scale, aim).intention,
                shot=1.0,
                seed=self.seed,
                track_predictions=False,
            )
        )
        return None if theirs.folder == self.folder else theirs

    def locked(self) -> AbstractContextManager[None]:
        """What the process holds that computes it."""
        return locked(self.folder.with_name(self.folder.name + ".lock"))

    def record(self) -> Record | None:
        """What ``metrics.json`` says, if it is of this configuration."""
        found = Record.read(self.folder)
        return found if found is not None and found.config_hash == self.hash else None

    def finished(self) -> Record | None:
        """The record of the finished run, its distance to the oracle brought up to date.

        The oracle may have been trained after the run was. None if it is not finished.
        """
        record = self.record()
        if record is None:
            return None
        distance = self._distance(record)
        if any(record.metrics.get(k) != v for k, v in distance.items()):
            record.metrics.update(distance)
            record.write(self.folder)
        return record

    def _distance(self, record: Record) -> dict[str, float]:
        """How far its answers on the test set are from the oracle's; empty if there is none."""
        theirs = self.oracle.record() if self.oracle is not None else None
        if self.oracle is None or theirs is None:
            return {}
        try:
            ours, other = (load_file(f / ANSWERS) for f in (self.folder, self.oracle.folder))
        except (OSError, SafetensorError):
            return {}
        answers = (ours["probabilities"], other["probabilities"])
        return distances(*answers, ours["forget"].bool(), record.metrics, theirs.metrics)

    def begin(self) -> None:
        """Make its folder, with ``config.yaml`` in it.

        Raises:
            UserError: if output_dir cannot be written.
        """
        make_folder(self.folder)
        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(self.cfg)))

    def keep_weights(self, state: dict[str, Tensor]) -> str:
        """Keep the unlearned weights; returns their fingerprint."""
        write_tensors(self.folder / WEIGHTS, state)
        return fingerprint(state)

    def weights(self, expected: str) -> dict[str, Tensor]:
        """The unlearned weights, if they are those of the fingerprint.

        Raises:
            UserError: if they are missing, damaged or others.
        """
        try:
            state = load_file(self.folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise UserError(WEIGHTS, f"cannot be read ({error})") from error
        if fingerprint(state) != expected:
            raise UserError(WEIGHTS, "these are not the weights that the run ended with")
        return state

    def keep_answers(self, probabilities: Tensor, forget: Tensor) -> None:
        """Keep the answers (M, classes) on the test set, and which rows are like D_e."""
        answers = {"probabilities": probabilities.float().contiguous()}
        write_tensors(self.folder / ANSWERS, {**answers, "forget": forget.to(torch.uint8)})

    def failed(self, error: str) -> None:
        """Leave ``error.json`` in its folder, if it came so far as to make one and still can."""
        cfg, seed = self.cfg, self.settings.get("seed")
        failure = Failure(error, cfg.scenario.name, method_of(cfg), seed, cfg.scale, self.settings)
        # What went wrong is said anyway; the images or the disk may be what is gone.
        with suppress(UserError, OSError):
            if self.folder.is_dir():
                failure.write(self.folder)

    def say_found(self, record: Record) -> None:
        """Say in one line that it was finished before, and whether other code made it."""
        by, (commit, dirty) = "", checkout()
        made = f"version {record.versions.get(PACKAGE)}, commit {record.commit}"
        now = f"version {__version__}, commit {commit}"
        if made != now:
            by = f", by other code ({made}; now {now})"
        elif record.dirty or dirty:
            by = f", maybe by other code (commit {commit} with changed files)"
        if record.measured != VERSION:
            by += (
                f", measured by version {record.measured} of the evaluation (now {VERSION}; "
                "`unlearn evaluate` measures it again)"
            )
        log.info("finished before%s; delete %s to run it again", by, self.folder)


@cache
def _preset(baseline: str, scale: str, intention: str = "std") -> Config:
    """The values that conf/ gives a baseline and an intention; not to be changed."""
    return resolve([f"baseline={baseline}", f"scale={scale}", f"intention={intention}"])
