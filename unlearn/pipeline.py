"""One run: scenario -> original model -> inversion -> filtration -> relearning -> evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearn.baselines import Baseline, BaselineStage, FullAccess
from unlearn.config import Config, check, method_of
from unlearn.engine.device import pick_device
from unlearn.engine.fitting import Fit
from unlearn.engine.predict import predict
from unlearn.engine.seeding import seeded_init
from unlearn.engine.stages import Computed, Stages
from unlearn.engine.store import Store, fingerprint, state_of, write_text
from unlearn.engine.watch import Watch
from unlearn.evaluation import Evaluation, Others, accuracies, evaluate, share
from unlearn.models import Classifier
from unlearn.models.checkpoint import load_checkpoint
from unlearn.problem import Interface, Problem
from unlearn.repair import Repair
from unlearn.runs import pictures
from unlearn.runs.made import Made, few_shot, made_by, provenance, warn_of_kept
from unlearn.runs.record import Record, history_csv
from unlearn.runs.run import Run, check_network, network_for
from unlearn.runs.tracking import Tracker, tracker
from unlearn.scenarios import Shots, Task, load_task, shot_mask, take_shots
from unlearn.sweep.estimate import duration_in_words, stage_seconds
from unlearn.training import Training

log = logging.getLogger(__name__)


def run(cfg: Config, job: int = 0) -> Record:
    """Do one configuration, or find it done.

    Args:
        job: its number within a sweep; of several GPUs each job takes the next one.

    Raises:
        UserError: if the configuration, the data, the output folder or the training cannot be.
    """
    check(cfg)
    place = Run(cfg)
    if record := place.finished():
        place.say_found(record)
        return record
    device = pick_device(cfg.device, job)
    cfg.networks.check(device)
    if not cfg.scenario.needs_data:
        repair = Repair.of(place, device)
        return computed(place, repair.compute)
    task = load_task(cfg.scenario, cfg.data, Path(cfg.data_dir), cfg.image_size, cfg.per_class)
    shots = take_shots(task, cfg.shot, cfg.seed)
    check_network(cfg, task)
    return computed(place, lambda track: Job(place, device, task, shots, track).compute())


def computed(place: Run, compute: Callable[[Tracker], Record]) -> Record:
    """A run's record, computed by one process at a time."""
    place.begin()
    with place.locked():
        if record := place.finished():  # by another process, meanwhile
            return record
        with tracker(place.cfg, place.folder, place.hash) as track:
            record = compute(track)
        return place.finished() or record


@dataclass
class Job:
    """One run at work."""

    place: Run
    device: torch.device
    task: Task
    shots: Shots
    track: Tracker

    @property
    def cfg(self) -> Config:
        """Its configuration."""
        return self.place.cfg

    @cached_property
    def fit(self) -> Fit:
        """How its stages are fitted and shown."""
        task, watch = self.task, None
        if self.cfg.track_predictions:
            watch = Watch(task.test.x[task.test_forget], len(task.classes))
        return Fit((), self.track, True, watch, self.cfg.networks)

    def stages(self, root: object) -> Stages:
        """Stages in the store of ``output_dir``; the first one builds on ``root``."""
        return stages_on(root, self.cfg, self.device)

    def compute(self) -> Record:
        """All of it: the original, the method, the measures, and what is left on the disk."""
        cfg, task, place = self.cfg, self.task, self.place
        log.info("%s, %s: %s, on %s", cfg.scenario.name, method_of(cfg), self.given(), self.device)
        self.warn_of_time()
        original, trained = self.original()
        before = predict(original, task.test.x)
        accuracy = accuracies(task, before)
        log.info("original: D_r %.2f %%, D_e %.2f %%", *(100 * v for v in accuracy.values()))
        given_all = cfg.full_access
        made = (
            self.few_shot(original) if given_all is None else self.by_baseline(given_all, original)
        )
        made = replace(
            made,
            history={**trained.history, **made.history},
            stages={**trained.stages, **made.stages},
            predictions={**trained.predictions, **made.predictions},
        )
        after = evaluate(made.model, task, place.seed, others=Others(lambda: original))
        weights = place.keep_weights(state_of(made.model))
        place.keep_answers(after.test.probabilities, task.test_forget)
        write_text(place.folder / "history.csv", history_csv(made.history))
        self.draw(made, before, after.predicted)
        record = self.record(made, weights, before, after)
        record.write(place.folder)
        record = place.finished() or record  # with its distance to the oracle, if there is one
        self.track.finish(record, made.history, place.folder / "pictures")
        self.say_what_small_networks_hide()
        return record

    def original(self) -> tuple[Classifier, Made]:
        """f_o in eval mode: one's own checkpoint, or trained, or from the store."""
        return original_model(self.cfg, self.task, self.device, self.fit)

    def few_shot(self, original: Classifier) -> Made:
        """Ours, or a method that is handed the same: model, shots and intention, and no data."""
        cfg, task, shots = self.cfg, self.task, self.shots
        correct = None if task.correct is None else torch.full_like(shots.labels, task.correct)
        problem = Problem.of(
            original, shots.images, shots.labels, correct, cfg.augment, cfg.seed, Interface()
        )
        stages = self.stages(problem.key)
        made = few_shot(self.place, problem, task.classes, self.fit, stages)
        answered = predict(made.model, (shots.images * 255).round().to(torch.uint8))
        warn_of_kept(share(answered == shots.labels), ours=cfg.rival is None)
        return made

    def by_baseline(self, baseline: Baseline, original: Classifier) -> Made:
        """A baseline: it is handed all of D and D_e."""
        cfg, task = self.cfg, self.task
        given = shot_mask(task, cfg.shot, cfg.seed) if "shot" in baseline.uses else task.forget

        def fresh() -> nn.Module:
            with seeded_init(cfg.seed, baseline.name):
                return network_for(cfg, task)

        stage = BaselineStage(baseline, self.place.settings)
        access = FullAccess(
            original.requires_grad_(False),
            task,
            given,
            cfg.intention,
            cfg.training,
            cfg.augment,
            fresh,
            cfg.seed,
            self.fit,
        )
        stages = self.stages(
            {
                "original": fingerprint(original.state_dict()),
                "data": fingerprint({"x": task.train.x, "y": task.train.y, "given": given}),
                "target": [task.target, task.correct],
            }
        )
        if not baseline.stages:
            stages.store = None
        state, remark = stages.run(stage, lambda: stage.make(access))
        model = network_for(cfg, task).to(self.device)
        model.load_state_dict(state)
        figures: dict[str, Callable[[], Any]] = {}
        if baseline.changes_nothing:
            confusing = pictures.confusing
            figures["confusing"] = lambda: pictures.draw_confusing(*confusing(original, task))
        return Made(
            model.eval(),
            {baseline.name: remark["history"]},
            made_by(stages),
            remark.get("predictions", {}),
            figures=figures,
        )

    def given(self) -> str:
        """What the method is handed, in words."""
        number, all_of_it = len(self.shots.images), int(self.task.forget.sum())
        if self.cfg.full_access is None:
            return f"intention {self.cfg.intention.name}, {number} of {all_of_it} images of D_e"
        if "shot" in self.place.settings:
            return f"all of D, {number} of {all_of_it} images of D_e"
        return f"all of D and of D_e ({all_of_it} images)"

    def warn_of_time(self) -> None:
        """Say how long the paper's scale takes without a GPU."""
        if self.device.type == "cpu" and self.cfg.scale == "paper":
            expected = sum(stage_seconds(self.cfg, self.task, self.device).values())
            log.warning(
                "no GPU: the paper's scale takes about %s here; scale=demo takes minutes",
                duration_in_words(expected),
            )

    def say_what_small_networks_hide(self) -> None:
        """Say where the demo's network does otherwise than the paper's."""
        cfg, mislabelled = self.cfg, self.task.correct is not None
        told = cfg.intention.on_small_networks
        if told and mislabelled and cfg.baseline is None and cfg.scale == "demo":
            log.info("%s: %s", cfg.intention.name, told)

    def record(self, made: Made, weights: str, before: torch.Tensor, after: Evaluation) -> Record:
        """What ``metrics.json`` says.

        Args:
            weights: fingerprint of the unlearned ones.
            before: what the original predicts on the test set (M,).
        """
        cfg, task, known = self.cfg, self.task, self.place.settings
        original = {f"original_{k}": v for k, v in accuracies(task, before).items()}
        still = [share(p[task.test_forget] == task.target) for p in (before, after.predicted)]
        return Record(
            **provenance(self.place, made, self.device),
            shots=len(self.shots.images) if "shot" in known else int(task.forget.sum()),
            note=task.source.note,
            classes=task.classes,
            metrics={**after.metrics, **original},
            still_target={"before": still[0], "after": still[1]},
            seconds={
                **{name: stage.seconds for name, stage in made.stages.items()},
                "evaluation": after.seconds,
            },
            weights=weights,
            measures=after.measures,
            predictions=made.predictions if cfg.track_predictions else None,
        )

    def draw(self, made: Made, before: torch.Tensor, after: torch.Tensor) -> None:
        """The pictures; ``before``, ``after`` are predicted classes (M,) of the test set."""
        task, folder = self.task, self.place.folder / "pictures"
        for name, figure in made.figures.items():
            pictures.save(figure(), folder / f"{name}.png")
        chosen = task.test_forget.nonzero()[:36, 0]
        texts = [pictures.most_frequent(p[chosen], task.classes) for p in (before, after)]
        limited = "shot" in self.place.settings
        given = self.shots.images if limited else task.train.x[task.forget].float() / 255
        overview = pictures.draw_overview(given, made.proxy, task.test.x[chosen], *texts)
        pictures.save(overview, folder / "overview.png")


def stages_on(root: object, cfg: Config, device: torch.device) -> Stages:
    """Stages in the store of ``output_dir``; the first one builds on ``root``."""
    computed = Computed.here(device, cfg.networks)
    return Stages(root, computed, Store(Path(cfg.output_dir) / "store"))


def original_model(
    cfg: Config, task: Task, device: torch.device, fit: Fit
) -> tuple[Classifier, Made]:
    """f_o in eval mode: one's own checkpoint, or trained, or from the store."""
    training = Training(cfg.training, cfg.model, cfg.augment, fit.watch)
    with seeded_init(cfg.training.seed, "original"):
        model = network_for(cfg, task)
    if cfg.model.file is not None:
        load_checkpoint(model, cfg.model.file)
        model.to(device).eval()
        return model, Made(model, {"training": []}, {})
    root = {"data": fingerprint({"x": task.train.x, "y": task.train.y})}
    stages = stages_on(root, cfg, device)
    state, remark = stages.run(training, lambda: training.make(model, task.train, device, fit))
    model.load_state_dict(state)
    model.to(device).eval()
    seen = {"training": remark["predictions"]} if "predictions" in remark else {}
    return model, Made(model, {"training": remark["history"]}, made_by(stages), seen)
