"""Where a classifier comes from: its architecture, its weights, what its configuration says."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from unlearn.errors import UserError
from unlearn.models.checkpoint import (
    KEY,
    Checkpoint,
    Fit,
    best_fit,
    checkpoint_identity,
    fill,
    held_in,
)
from unlearn.models.saving import FileWeights, Weights
from unlearn.registry import Registry

Size = tuple[int, int]
# Settings of scenario=own alone.
GIVEN = ("image_size", "mean", "std", "penultimate")
# Sizes of a first guess; a checkpoint that has others tells them by the shapes that differ.
CHANNELS, CLASSES = 3, 11


@dataclass(frozen=True)
class Told:
    """What a model's own configuration says; None where it says nothing.

    Attributes:
        size: height and width of its images in pixels.
        mean, std: its input normalisation, for each channel.
        classes: their names.
        where: which configuration it is, in words.
    """

    size: Size | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    classes: Sequence[str] | None = None
    where: str = ""


@dataclass(frozen=True)
class Trained:
    """A network with its trained weights, and how they are written back.

    Attributes:
        normalises: whether it takes images in [0, 1] as they are.
    """

    network: nn.Module
    weights: Weights
    normalises: bool = False


@dataclass
class AnyModel(ABC):
    """A classifier's architecture. One file with one registered class and one YAML adds another.

    Attributes:
        name: of one of our own networks, or of what makes the network.
        checkpoint: a file of trained weights; without one the network is trained here.
        image_size: of ``scenario=own``: one number or [height, width], in pixels.
        mean, std: of ``scenario=own``: the input normalisation, one number or one for each channel.
        penultimate: of ``scenario=own``: the layer whose output is the embedding; needed only if
            the model does not end in a linear layer.
    """

    name: str = ""
    checkpoint: str | None = field(default=None, kw_only=True)
    image_size: Any = field(default=None, kw_only=True)
    mean: Any = field(default=None, kw_only=True)
    std: Any = field(default=None, kw_only=True)
    penultimate: str | None = field(default=None, kw_only=True)

    @abstractmethod
    def fresh(self, channels: int, classes: int, size: Size) -> nn.Module:
        """An untrained network: images (B, channels, *size) to logits (B, classes).

        Raises:
            UserError: naming the setting, if there can be none.
        """

    def trained(self, size: Size) -> Trained:
        """The network with its weights. How many classes and channels it has, they tell.

        Raises:
            UserError: naming the setting, if they cannot be read or do not fit.
        """
        path = self.needed_checkpoint()
        network, found = load_sized(lambda c, k: self.fresh(c, k, size), path)
        return Trained(network, FileWeights(path, found))

    @property
    def file(self) -> str | None:
        """The file of trained weights; None if there is none."""
        return self.checkpoint

    def told(self) -> Told:
        """What the model's own configuration says.

        Raises:
            UserError: naming the setting, if it cannot be read.
        """
        return Told()

    def check(self) -> None:
        """Refuse settings that cannot be, before any work.

        Raises:
            UserError: naming the setting and what it allows.
        """
        if self.image_size is not None:
            size_of(self.image_size)
        for name in ("mean", "std"):
            numbers_of(f"model.{name}", getattr(self, name))

    def identity(self) -> str:
        """What else than the settings tells two versions of the model apart.

        Raises:
            UserError: if its files cannot be read.
        """
        return checkpoint_identity(self.checkpoint)

    def settings(self) -> dict[str, Any]:
        """All settings, less those of ``scenario=own`` that are not given."""
        return {k: v for k, v in asdict(self).items() if v is not None or k not in GIVEN}

    def needed_checkpoint(self) -> str:
        """The checkpoint.

        Raises:
            UserError: if none is given.
        """
        if self.checkpoint is None:
            raise UserError(KEY, "needs the file of the trained weights: model.checkpoint=FILE")
        return self.checkpoint


ORIGINS: Registry[type[AnyModel]] = Registry("model")


def load_sized(make: Callable[[int, int], nn.Module], path: str) -> tuple[nn.Module, Checkpoint]:
    """A network of as many channels and classes as a checkpoint has, with its weights.

    Args:
        make: the network, of channels and classes.

    Raises:
        UserError: if the file cannot be read or does not fit.
    """
    held = held_in(path)
    network = make(CHANNELS, CLASSES)
    fit = best_fit(network, held)
    channels, classes = _sizes(fit)
    if (channels, classes) != (CHANNELS, CLASSES):
        network = make(channels, classes)
        fit = best_fit(network, held)
    return network, fill(network, fit, path)


def _sizes(fit: Fit) -> tuple[int, int]:
    """Channels and classes of the file, told by the shapes that differ in one axis alone."""
    channels, classes = CHANNELS, CLASSES
    for _, given, wanted in fit.shapes:
        if len(given) != len(wanted):
            continue
        axes = [i for i, (a, b) in enumerate(zip(given, wanted, strict=True)) if a != b]
        if axes == [0] and wanted[0] == CLASSES:
            classes = given[0]
        elif axes == [1] and wanted[1] == CHANNELS:
            channels = given[1]
    return channels, classes


def size_of(given: Any, key: str = "model.image_size") -> Size:
    """Height and width, of one number for both or of two.

    Raises:
        UserError: if it is neither.

    Example:
        >>> size_of(28), size_of([24, 32])
        ((28, 28), (24, 32))
    """
    pair = [given, given] if isinstance(given, int) else given
    if (
        not isinstance(pair, (list, tuple))
        or len(pair) != 2
        or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 8 for v in pair)
    ):
        raise UserError(key, f"{given!r} is not a whole number from 8, or [height, width] of such")
    return int(pair[0]), int(pair[1])


def numbers_of(key: str, given: Any) -> list[float] | None:
    """One number or several; None for none.

    Raises:
        UserError: if it is neither, or a deviation is not above 0.
    """
    if given is None:
        return None
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in values]
    if not values or not all(numbers):
        raise UserError(key, f"{given!r} is not a number, or one for each channel")
    if key.endswith("std") and not all(v > 0 for v in values):
        raise UserError(key, f"{given!r} is not above 0")
    return [float(v) for v in values]


def given_arguments(given: Any) -> dict[str, Any]:
    """Arguments by name; none for None.

    Raises:
        UserError: if it is no mapping from names.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(k, str) for k in given):
        raise UserError(
            "model.arguments", f"{given!r} is no mapping: 'model.arguments={{classes: 10}}'"
        )
    return dict(given)


def installed(module: str, extra: str) -> Any:
    """An optional library.

    Raises:
        UserError: saying what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            "model",
            f"{extra} needs a library that is not installed ({error}): "
            f"pip install 'few-shot-unlearning[{extra}]'",
        ) from error
