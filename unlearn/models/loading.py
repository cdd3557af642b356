"""A trained model of any origin, with all that must be known to repair it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from unlearn.errors import UserError
from unlearn.models.adapt import computing_type, copied
from unlearn.models.answers import answers
from unlearn.models.base import Classifier
from unlearn.models.origin import AnyModel, Size, Told, Trained, numbers_of, size_of
from unlearn.models.saving import Weights

# Numbers of channels that images are read with.
READ = (3, 1)
SHOWN = 5


@dataclass(frozen=True)
class Loaded:
    """A trained model and how images enter it.

    Attributes:
        network: as its own code has it, in eval mode.
        weights: how repaired ones are written back.
        channels: of its images, 3 or 1.
        size: height and width of its images, in pixels.
        normalize: the mean and deviation of each channel that it expects; None if it takes
            images in [0, 1].
        number: of the classes that it answers.
        classes: their names, if its configuration has them.
        said: what was taken from where, in one line.
    """

    network: nn.Module
    weights: Weights
    channels: int
    size: Size
    normalize: tuple[list[float], list[float]] | None
    number: int
    classes: list[str] | None
    said: str

    def answering(self, network: nn.Module | None = None) -> Classifier:
        """A copy that takes images (B, C, H, W) in [0, 1] and answers logits, in eval mode.

        Args:
            network: a repaired one in place of the given one.
        """
        mean, std = self.normalize or ([0.0] * self.channels, [1.0] * self.channels)
        own = copied(network or self.network)
        plain = Classifier(own, mean, std).to(computing_type(own))
        return plain.to(next(own.parameters()).device).eval()


def load_model(cfg: AnyModel) -> Loaded:
    """Make the network, load its weights, and see what it takes and answers.

    Raises:
        UserError: naming the setting that is missing or cannot be.

    Example:
        >>> from unlearn.models import ModelConfig
        >>> load_model(ModelConfig("small_cnn"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        unlearn.errors.UserError: model.image_size: model=small_cnn has no configuration that ...
    """
    cfg.check()
    told = cfg.told()
    size = told.size if cfg.image_size is None else size_of(cfg.image_size)
    if size is None:
        raise UserError(
            "model.image_size",
            f"model={cfg.name} has no configuration that says it: model.image_size=PIXELS",
        )
    trained = cfg.trained(size)
    network = trained.network.eval()
    channels, number = _seen(network, size)
    normalize = None if trained.normalises else _normalisation(cfg, told, channels)
    classes = _names(told, number)
    said = _in_words(cfg, told, trained, (channels, *size), normalize)
    return Loaded(
        network, trained.weights, channels, size, normalize, number, classes,
        f"{said}; {number} classes",
    )  # fmt: skip


def _seen(network: nn.Module, size: Size) -> tuple[int, int]:
    """The channels that a network takes and the classes that it answers."""
    weight = next((p for p in network.parameters() if p.is_floating_point()), None)
    if weight is None:
        raise UserError("model", "it has no parameters, so that nothing can be relearned")
    refused: list[UserError] = []
    for channels in READ:
        images = torch.zeros(2, channels, *size, device=weight.device, dtype=weight.dtype)
        try:
            return channels, answers(network, images).logits.shape[1]
        except UserError as error:
            refused.append(error)
    raise refused[0]


def _normalisation(cfg: AnyModel, told: Told, channels: int) -> tuple[list[float], list[float]]:
    found = []
    for name, own in (("mean", told.mean), ("std", told.std)):
        values = numbers_of(f"model.{name}", getattr(cfg, name))
        given = values is not None
        if values is None and own is not None:
            values = [float(v) for v in own]
        if values is None or (not given and len(values) not in (1, channels)):
            raise UserError(
                f"model.{name}",
                f"model={cfg.name} has no configuration that says it for {channels} channels: "
                f"model.mean=[...] model.std=[...]; model.mean=0 model.std=1 if the model takes "
                "images in [0, 1] as they are",
            )
        if len(values) not in (1, channels):
            raise UserError(
                f"model.{name}", f"{values} is not one number for each of {channels} channels"
            )
        found.append(values * channels if len(values) == 1 else values)
    return found[0], found[1]


def _names(told: Told, number: int) -> list[str] | None:
    names = None if told.classes is None else list(told.classes)
    return names if names is not None and len(names) == number else None


def _in_words(
    cfg: AnyModel,
    told: Told,
    trained: Trained,
    shape: tuple[int, int, int],
    normalize: tuple[Sequence[float], Sequence[float]] | None,
) -> str:
    """What was taken, and from where."""
    size = _from(cfg.image_size is not None, told)
    parts = [f"images of {shape[0]}x{shape[1]}x{shape[2]} ({size})"]
    if normalize is None:
        parts.append("its normalisation is in the checkpoint")
    else:
        for name, values in zip(("mean", "std"), normalize, strict=True):
            numbers = ", ".join(f"{v:g}" for v in values)
            parts.append(f"{name} {numbers} ({_from(getattr(cfg, name) is not None, told)})")
    return ", ".join(parts)


def _from(given: bool, told: Told) -> str:
    return "as given" if given else f"configuration: {told.where}"
