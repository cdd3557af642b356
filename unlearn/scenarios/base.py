"""A scenario's task: D, D_e, D_r, their test sets, the label to forget and the correct one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from omegaconf import MISSING
from torch import Tensor

from unlearn.data import SOURCES, Images, Pair, Source
from unlearn.data.base import first_per_class, fit_size
from unlearn.engine.seeding import seeded
from unlearn.errors import UserError
from unlearn.registry import Registry


@dataclass
class Task:
    """One unlearning task.

    Attributes:
        train: D, with the labels that the original learns.
        forget: (N,) bool, D_e within D; the rest is D_r.
        test: the test set with its true labels.
        test_forget: (M,) bool, the test images like D_e.
        target: the label of D_e to forget.
        correct: the right label of D_e, if ``target`` is wrong and the right one is known.
        counted: the label that counts as accurate on the test D_e.
        classes: names of the classes.
        source: where the images come from.
    """

    train: Images
    forget: Tensor
    test: Images
    test_forget: Tensor
    target: int
    correct: int | None
    counted: int
    classes: list[str]
    source: Source

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (self.train.x.shape[1], self.train.x.shape[2], self.train.x.shape[3])


@dataclass
class Shots:
    """The given part of D_e: images (k, C, H, W) in [0, 1] and labels (k,)."""

    images: Tensor
    labels: Tensor


@dataclass
class Scenario(ABC):
    """One scenario. One file with one registered class and one YAML adds another.

    Attributes:
        data: the source used at each scale.
        knows_correct: whether D_e is mislabelled and its right label known (intention ``cor``).
        whole_class: whether D_e is all the images of a class.
        may_be_whole_class: whether that is for the user to say.
        needs_data: whether there is a D; without it the model is trained already.
    """

    knows_correct: ClassVar[bool] = False
    whole_class: ClassVar[bool] = False
    may_be_whole_class: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True
    name: str = MISSING
    data: dict[str, str] = field(default_factory=dict)

    @abstractmethod
    def task(self, pair: Pair, source: Source) -> Task:
        """Split a source's images into the task.

        Raises:
            UserError: if the source has no such images.
        """

    def check(self) -> None:
        """Check the scenario's own settings.

        Raises:
            UserError: naming the setting and what it allows.
        """

    def given(self) -> int | None:
        """How many images of D_e are given; None where they are drawn from D."""
        return None

    def identity(self) -> str:
        """What else than the settings tells two versions of the task apart."""
        return ""

    def labels(self) -> str:
        """What the labels of D depend on, other than the source; empty for the true ones."""
        return ""

    @property
    def folder(self) -> str:
        """What its runs' folder is called."""
        return self.name


SCENARIOS: Registry[type[Scenario]] = Registry("scenario")


def needs_whole_class(what: str, scenario: str) -> str:
    """Why something cannot be in a scenario that forgets no whole class, in words."""
    able = ", ".join(name for name in SCENARIOS if SCENARIOS[name].whole_class)
    return f"{what} needs a scenario that forgets a whole class: {able}; {scenario} does not"


def load_task(
    scenario: Scenario, data: str, data_dir: Path, size: int | None, per_class: int | None
) -> Task:
    """The scenario on a source's images, made ``size`` pixels square.

    Args:
        size: None keeps the images' own size; smaller images are padded with black, larger ones
            scaled down.
        per_class: at most so many training images of each class; None takes all.
    """
    source = SOURCES[data]()
    pair = source.load_fitted(data_dir, size)
    pair = replace(pair, train=first_per_class(pair.train, per_class))
    task = scenario.task(pair, source)
    if not task.forget.any() or not task.test_forget.any():
        raise UserError("scenario", f"{scenario.name} finds nothing to forget in data={data}")
    for images in (task.train, task.test):
        images.x = fit_size(images.x, size)
    return task


def shot_count(shot: float | str, available: int) -> int:
    """How many images ``shot`` means: a share in (0, 1], or ``24img``.

    Raises:
        UserError: if it is neither, or more than there are.
    """
    wrong = UserError(
        "shot", f"{shot!r} is neither a share of D_e in (0, 1] nor a number of images like 24img"
    )
    if isinstance(shot, str):
        digits = shot.removesuffix("img")
        if digits == shot or not digits.isdecimal() or int(digits) < 1:
            raise wrong
        if int(digits) > available:
            raise UserError("shot", f"{shot} is more than the {available} images of D_e")
        return int(digits)
    if not 0 < shot <= 1:
        raise wrong
    return max(1, round(shot * available))


def shot_mask(task: Task, shot: float | str, seed: int) -> Tensor:
    """(N,) bool over D: the random part of D_e that is given."""
    rows = task.forget.nonzero()[:, 0]
    number = shot_count(shot, len(rows))
    given = torch.zeros_like(task.forget)
    given[rows[torch.randperm(len(rows), generator=seeded(seed, "shots"))[:number]]] = True
    return given


def take_shots(task: Task, shot: float | str, seed: int) -> Shots:
    """A random part of D_e, the only training images that the unlearner ever sees."""
    given = task.train[shot_mask(task, shot, seed)]
    return Shots(given.x.float() / 255, given.y.clone())
