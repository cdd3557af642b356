"""The paper's subclass scenarios: the sevens with a bar (Sections 5.1 and 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from unlearn.data import Images, Pair, Source, digests
from unlearn.data.crossed_sevens import annotation_identity, load_annotation
from unlearn.scenarios.base import SCENARIOS, Scenario, Task


@SCENARIOS.register("7mnist")
@dataclass
class CrossedSevens(Scenario):
    """7-MNIST: D_e is the crossed sevens, rightly labelled 7; to be forgotten for privacy.

    Attributes:
        annotation: another list of crossed sevens; None is the packaged one.
    """

    annotation: str | None = None

    def task(self, pair: Pair, source: Source) -> Task:
        known = load_annotation(self.annotation)
        masks = [
            torch.tensor([d in known for d in digests(part.x)], dtype=torch.bool)
            for part in (pair.train, pair.test)
        ]
        return Task(pair.train, masks[0], pair.test, masks[1], 7, None, 7, pair.classes, source)

    def identity(self) -> str:
        return annotation_identity(self.annotation)


@SCENARIOS.register("7noisymnist")
@dataclass
class MislabelledCrossedSevens(CrossedSevens):
    """7-noisyMNIST: the original was trained with every crossed seven labelled 2."""

    knows_correct: ClassVar[bool] = True

    def task(self, pair: Pair, source: Source) -> Task:
        task = super().task(pair, source)
        labels = task.train.y.clone()
        labels[task.forget] = 2
        task.train = Images(task.train.x, labels)
        task.target, task.correct = 2, 7
        return task

    def labels(self) -> str:
        return f"{self.name} {self.identity()}"
