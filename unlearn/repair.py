"""A run of one's own model: repaired with a few images, no D, its weights written as they came."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from unlearn.config import Config
from unlearn.engine.fitting import Fit, gpu_layout
from unlearn.engine.predict import predict
from unlearn.engine.stages import Computed, Stages
from unlearn.engine.store import Store, fingerprint, state_of, write_text
from unlearn.errors import UserError
from unlearn.evaluation import share
from unlearn.filtration import Proxy
from unlearn.models import Loaded, load_model
from unlearn.models.adapt import plainly
from unlearn.problem import Interface, Problem
from unlearn.runs import pictures
from unlearn.runs.made import Made, few_shot, provenance, warn_of_kept
from unlearn.runs.record import Record, history_csv
from unlearn.runs.run import Run
from unlearn.runs.tracking import Tracker
from unlearn.scenarios import Own, OwnTask
from unlearn.sweep.estimate import duration_in_words, own_seconds

log = logging.getLogger(__name__)

# The library call's arguments, as the command line names them.
SETTINGS = {
    "penultimate": "model.penultimate",
    "normalize": "model.mean",
    "shots": "scenario.shots",
    "labels": "scenario.label",
    "correct_labels": "scenario.correct",
}
AGREEMENT = "proxy_agreement"
NOTE = "one's own model and images"
# Names that a run's folder has already.
TAKEN = ("metrics.json", "config.yaml", "history.csv", "error.json", "pictures")
Answers = dict[str, dict[str, dict[str, int]]]


@dataclass
class Repair:
    """A repair at work; everything is read and checked.

    Attributes:
        model: the given one.
        task: what is given beside it.
        problem: both, as the unlearner takes them.
    """

    place: Run
    device: torch.device
    model: Loaded
    task: OwnTask
    problem: Problem

    @classmethod
    def of(cls, place: Run, device: torch.device) -> Repair:
        """Load the model, read the images, check both; say what was taken.

        Raises:
            UserError: naming the setting, if something is missing or cannot be.
        """
        cfg = place.cfg
        model = load_model(cfg.model)
        task = cast(Own, cfg.scenario).read(model, cfg.filtration.whole_class)
        network = model.network.to(device)
        with as_settings(), plainly(network):
            interface = Interface(cfg.model.penultimate, model.normalize)
            shots = task.shots.to(torch.get_default_dtype()) / 255
            problem = Problem.of(
                network, shots, task.labels, task.correct, cfg.augment, cfg.seed, interface
            )
            for target, correct in problem.pairs:
                cfg.intention.check(target, correct)
        log.info("model: %s", model.said)
        log.info("%s", task.said)
        return cls(place, device, model, task, problem)

    @property
    def cfg(self) -> Config:
        """The run's configuration."""
        return self.place.cfg

    def compute(self, track: Tracker) -> Record:
        """Repair, measure what can be measured, and write it all."""
        with plainly(self.model.network):
            return self._compute(track)

    def _compute(self, track: Tracker) -> Record:
        cfg, place, task = self.cfg, self.place, self.task
        log.info("own model, intention %s, on %s", cfg.intention.name, self.device)
        self.warn_of_time()
        before = self.answers(self.model.answering())
        fit = Fit((), track, True, None, cfg.networks)
        computed = Computed.here(self.device, cfg.networks)
        stages = Stages(self.problem.key, computed, Store(Path(cfg.output_dir) / "store"))
        with as_settings():
            made = few_shot(place, self.problem, task.classes, fit, stages)
        start = time.perf_counter()
        repaired = self.model.answering(made.model)
        after = self.answers(repaired)
        agreement = agreeing(repaired, made.proxy)
        seconds = time.perf_counter() - start
        self.write(made.model)
        write_text(place.folder / "history.csv", history_csv(made.history))
        self.draw(made, before, after)
        record = self.record(made, before, after, agreement, seconds)
        self.say(record)
        record.write(place.folder)
        track.finish(record, made.history, place.folder / "pictures")
        return record

    def answers(self, model: nn.Module) -> dict[str, Tensor]:
        """What a model answers on the shots, and on the test images if there are any."""
        model = gpu_layout(model)
        found = {"shots": predict(model, self.task.shots)}
        if self.task.test is not None:
            found["test"] = predict(model, self.task.test.x)
        if self.task.forget is not None:
            found["test_forget"] = predict(model, self.task.forget)
        return found

    def write(self, model: nn.Module) -> None:
        """The repaired weights in the form of the given ones, under their name."""
        given = Path(self.model.weights.path)
        name = f"repaired-{given.name}" if given.name in TAKEN else given.name
        to = self.place.folder / name
        for line in self.model.weights.write(model, to):
            log.warning("%s", line)
        log.info("repaired weights: %s", to)

    def record(
        self,
        made: Made,
        before: dict[str, Tensor],
        after: dict[str, Tensor],
        agreement: dict[str, float],
        seconds: float,
    ) -> Record:
        """What ``metrics.json`` says."""
        task = self.task
        still = [share(seen["shots"] == task.labels) for seen in (before, after)]
        metrics = {"original_target_on_shots": still[0], "target_on_shots": still[1], **agreement}
        for name, seen in (("original_", before), ("", after)):
            metrics |= {f"{name}{k}": v for k, v in accuracies(task, seen).items()}
        return Record(
            **provenance(self.place, made, self.device),
            shots=len(task.shots),
            note=NOTE,
            classes=task.classes,
            metrics=metrics,
            still_target={"before": still[0], "after": still[1]},
            seconds={
                **{name: stage.seconds for name, stage in made.stages.items()},
                "evaluation": seconds,
            },
            weights=fingerprint(state_of(made.model)),
            measures=[],
            answers={
                "before": counted(before["shots"], task.classes),
                "after": counted(after["shots"], task.classes),
            },
        )

    def say(self, record: Record) -> None:
        """What came of it, in a few lines."""
        assert record.answers is not None
        words = [
            ", ".join(f"{name} x{n}" for name, n in record.answers[when].items())
            for when in ("before", "after")
        ]
        log.info("the shots were answered %s; now %s", *words)
        warn_of_kept(record.metrics["target_on_shots"])
        if AGREEMENT in record.metrics:
            log.info(
                "on the generated samples to be kept both models agree: %.2f %%",
                100 * record.metrics[AGREEMENT],
            )
        if self.task.test is None:
            log.info("no test images (scenario.test): how accurate it is, is not known")

    def draw(self, made: Made, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
        """The pictures."""
        task, folder = self.task, self.place.folder / "pictures"
        for name, figure in made.figures.items():
            pictures.save(figure(), folder / f"{name}.png")
        named = "test_forget" if task.forget is not None else "shots"
        shown = task.shots if task.forget is None else task.forget
        text, later = (
            pictures.most_frequent(seen[named][:36], task.classes) for seen in (before, after)
        )
        what = "test images like $D_e$" if task.forget is not None else "the given images"
        given = task.shots.float() / 255
        overview = pictures.draw_overview(given, made.proxy, shown[:36], text, later, what)
        pictures.save(overview, folder / "overview.png")

    def warn_of_time(self) -> None:
        """Say how long the paper's scale takes without a GPU."""
        if self.device.type == "cpu" and self.cfg.scale == "paper":
            expected = sum(own_seconds(self.cfg, self.problem).values())
            log.warning(
                "no GPU: the paper's scale takes about %s here; scale=demo takes a fraction",
                duration_in_words(expected),
            )


class as_settings:
    """Within, errors name the command line's settings in place of the library call's arguments."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UserError) and error.key in SETTINGS:
            said = str(error).split(": ", 1)[1]
            raise UserError(SETTINGS[error.key], said) from error


def accuracies(task: OwnTask, seen: dict[str, Tensor]) -> dict[str, float]:
    """``D_r`` on test images, ``D_e`` on those like the shots; of what there is."""
    found = {}
    if task.test is not None:
        found["D_r"] = share(seen["test"] == task.test.y)
    if task.forget_labels is not None:
        found["D_e"] = share(seen["test_forget"] == task.forget_labels)
    return found


def agreeing(model: nn.Module, proxy: Proxy | None) -> dict[str, float]:
    """Share of D~_r on which a model answers as f_o does, in [0, 1]; nothing without samples."""
    if proxy is None:
        return {}
    kept = proxy.retained
    same = predict(model, proxy.images[kept]) == proxy.probabilities[kept].argmax(-1)
    return {AGREEMENT: share(same)}


def counted(answers: Tensor, classes: list[str]) -> dict[str, int]:
    """How often each class is answered, the most frequent first."""
    return dict(Counter(classes[int(c)] for c in answers).most_common())
