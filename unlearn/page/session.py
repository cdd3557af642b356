"""What one person does on the page, step by step; no widgets are known here."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from unlearn.engine.fitting import Fit, gpu_layout
from unlearn.engine.predict import predict
from unlearn.errors import UserError
from unlearn.forget import Result, few_shot_unlearn, sample
from unlearn.models.adapt import plainly
from unlearn.page.desk import Choice, Desk
from unlearn.page.split import Split
from unlearn.page.uploads import Dropped
from unlearn.page.work import PER_ROW, Job, Stopped, Watching
from unlearn.repair import agreeing, as_settings
from unlearn.runs.pictures import samples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """The samples.

    Attributes:
        shots: that they were made for, uint8 (k, C, H, W).
        split: of them, under the person's hand.
        grid: some of each condition, (conditions * PER_ROW, C, H, W) in [0, 1].
    """

    choice: Choice
    shots: Tensor
    split: Split
    grid: Tensor


@dataclass(frozen=True)
class Repaired:
    """The repaired model.

    Attributes:
        answering: takes images in [0, 1].
        file: its weights, in the given form.
        marks: the split that it was relearned with, (n,) bool.
        agreement: the share of D~_r on which it answers as the given one does.
        said: what must be said of the weights, a line each.
    """

    choice: Choice
    result: Result
    answering: nn.Module
    file: Path
    marks: Tensor
    agreement: float
    said: list[str]


class Session:
    """One person's steps. Whatever computes is a job in the line that all share.

    Attributes:
        shots, tests: the images that were dropped.
        before, after: what the given and the repaired model answer on ``shots`` and ``tests``,
            (n,) each, as far as it is known.
        job: the last one.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        # Within that of the uploads: what lies elsewhere the server would copy.
        self.folder = Path(tempfile.mkdtemp(prefix="session-", dir=desk.uploads))
        self.shots, self.tests = Dropped(desk.wanted), Dropped(desk.wanted)
        self.before: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}
        self.made: Made | None = None
        self.repaired: Repaired | None = None
        self.job: Job | None = None

    # --- images

    def add_shots(self, paths: Sequence[str]) -> list[str]:
        """Take images that show what must go; returns why some are refused."""
        self._free()
        return self.shots.add(paths, self.desk.uploads)

    def add_tests(self, paths: Sequence[str]) -> list[str]:
        """Take images to try the models on; returns why some are refused."""
        self._free()
        return self.tests.add(paths, self.desk.uploads)

    def clear(self) -> None:
        """Remove the shots and what was made of them."""
        self._free()
        self.shots.clear()
        self.before, self.after = {}, {}
        self.made = self.repaired = None

    def take_example(self) -> Choice:
        """The demo's own images, and what is to be done about them.

        Raises:
            UserError: if there are none.
        """
        self._free()
        example = self.desk.example
        if example is None:
            raise UserError("images", "there is no example for this model")
        self.shots.put(example.shots, "example")
        self.tests.put(example.test, "test")
        return example.choice

    # --- jobs

    def look(self) -> Job:
        """See what the models answer on the images."""

        def work(job: Job) -> None:
            job.at("answers")
            self._answer()

        return self._start("looking at the images", work)

    def make_samples(self, choice: Choice) -> Job:
        """Inversion and filtration; found in the store if the same was made before."""
        shots = self._given()
        cfg, settings, _ = self.desk.settings(choice.intention)

        def work(job: Job) -> None:
            job.at("reading")
            problem = self.desk.problem(shots, choice)
            fit = Fit((Watching(job),), None, False, None, cfg.networks)
            fit.precision.check(problem.device)
            problem.warn()
            found = sample(problem, settings, fit, self.desk.stages(problem))
            job.at("filtration")
            assert found.generator is not None
            grid = samples(found.generator, PER_ROW)
            split = Split(settings.filtration, found.proxy, problem.targets)
            self.made, self.repaired, self.after = Made(choice, shots, split, grid), None, {}

        return self._start("making samples", work)

    def relearn(self, choice: Choice) -> Job:
        """Relearning with the split as it is now, by the library call's own stages.

        Raises:
            UserError: if there are no samples yet, or they are for another label.
        """
        made = self.made
        if made is None:
            raise UserError("samples", "make samples first")
        if choice.label != made.choice.label:
            name = self.desk.classes[made.choice.label]
            raise UserError("label", f"the samples are for {name}; make others for this label")
        marks = made.split.target_like()
        cfg, own, intention = self.desk.settings(choice.intention)
        _, first, _ = self.desk.settings(made.choice.intention)
        settings = replace(own, inversion=first.inversion, filtration=first.filtration)

        def work(job: Job) -> None:
            job.at("reading")
            problem = self.desk.problem(made.shots, choice)
            fit = Fit((Watching(job),), None, False, None, cfg.networks)
            stages = self.desk.stages(problem)
            result = few_shot_unlearn(problem, intention, settings, fit, stages, marks)
            job.at("answers")
            self.repaired = self._written(choice, result, marks)
            self._answer()

        return self._start("relearning", work)

    def stop(self) -> None:
        """Stop the job: at once if it waits, else at its next step."""
        if self.job is not None:
            self.job.stop.set()
            self.job.future.cancel()

    def close(self) -> None:
        """Remove the files. A job at work goes on, so that the store has its result."""
        if self.job is not None:
            self.job.future.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def busy(self) -> bool:
        """Whether a job of this person waits or works."""
        return self.job is not None and not self.job.done

    def _free(self) -> None:
        if self.busy:
            raise UserError("page", "there is still work; wait for it or stop it")

    def _given(self) -> Tensor:
        if not len(self.shots):
            raise UserError("images", "drop images first")
        return self.shots.images.clone()

    def _start(self, title: str, work: Callable[[Job], None]) -> Job:
        self._free()

        def watched(job: Job) -> None:
            try:
                with as_settings(), plainly(self.desk.loaded.network):
                    work(job)
            except Stopped:
                job.error = "stopped; what is finished is kept"
            except UserError as error:
                job.error = str(error)
            except Exception as error:
                log.exception("%s", title)
                job.error = f"it failed ({type(error).__name__}); the terminal says more"

        self.job = Job(title)
        self.desk.line.put(self.job, watched)
        return self.job

    def _answer(self) -> None:
        """Ask both models about all the images."""
        models: dict[str, nn.Module] = {"before": self.desk.loaded.answering()}
        if self.repaired is not None:
            models["after"] = self.repaired.answering
        for when, model in models.items():
            asked = gpu_layout(model)
            images = {"shots": self.shots.images, "tests": self.tests.images}
            seen = {name: predict(asked, x) for name, x in images.items() if len(x)}
            setattr(self, when, seen)

    def _written(self, choice: Choice, result: Result, marks: Tensor) -> Repaired:
        """The repaired model with its weights in the given form, in this session's folder."""
        loaded = self.desk.loaded
        answering = loaded.answering(result.model)
        given = Path(loaded.weights.path)
        to = self.folder / f"repaired-{given.name}"
        said = loaded.weights.write(result.model, to)
        file = Path(shutil.make_archive(str(to), "zip", to)) if to.is_dir() else to
        agreement = next(iter(agreeing(answering, result.proxy).values()), float("nan"))
        return Repaired(choice, result, answering, file, marks, agreement, said)


def most_frequent_label(answers: Tensor | None) -> int | None:
    """What is answered most often; None where nothing is known.

    Example:
        >>> import torch
        >>> most_frequent_label(torch.tensor([2, 7, 2]))
        2
    """
    if answers is None or not len(answers):
        return None
    return int(answers.mode().values)
