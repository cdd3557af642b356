"""Scenarios that forget a whole class (Section 5.3, Appendix C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from unlearn.data import Pair, Source
from unlearn.errors import UserError, choices
from unlearn.scenarios.base import SCENARIOS, Scenario, Task


def forget_class(pair: Pair, source: Source, label: int) -> Task:
    """D_e is all the images with ``label``."""
    return Task(
        pair.train,
        pair.train.y == label,
        pair.test,
        pair.test.y == label,
        label,
        None,
        label,
        pair.classes,
        source,
    )


@SCENARIOS.register("class_mnist")
@dataclass
class ClassMNIST(Scenario):
    """All the images of one digit, crossed or not (the paper's 9-, 8- and 7-MNIST of Appendix C).

    Attributes:
        digit: 0 to 9.
    """

    whole_class: ClassVar[bool] = True
    digit: int = MISSING

    def task(self, pair: Pair, source: Source) -> Task:
        return forget_class(pair, source, self.digit)

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.digit}"

    def check(self) -> None:
        if not 0 <= self.digit <= 9:
            raise UserError("scenario.digit", f"{self.digit} is not one of 0 to 9")


@dataclass
class NamedClass(Scenario):
    """All the images of the class with a name.

    Attributes:
        class_name: one of the source's classes.
    """

    whole_class: ClassVar[bool] = True
    class_name: str = MISSING

    def task(self, pair: Pair, source: Source) -> Task:
        if self.class_name not in pair.classes:
            raise choices("scenario.class_name", self.class_name, pair.classes)
        return forget_class(pair, source, pair.classes.index(self.class_name))

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.class_name}"


@SCENARIOS.register("class_cifar10")
@dataclass
class ClassCIFAR10(NamedClass):
    """One class of CIFAR-10."""


@SCENARIOS.register("truck_cifar10")
@dataclass
class TruckCIFAR10(ClassCIFAR10):
    """Truck-CIFAR10 of Section 5.3."""


@SCENARIOS.register("class_folder")
@dataclass
class ClassFolder(NamedClass):
    """One class of one's own images."""
