"""What the unlearner is given, checked once: a model, a few images, what they shall not be called.

It is never a data set, and nothing imported here can load one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.engine.augment import Augment
from unlearn.engine.fitting import gpu_layout
from unlearn.engine.predict import evaluating
from unlearn.engine.store import fingerprint
from unlearn.errors import UserError
from unlearn.models.base import Classifier
from unlearn.models.probe import Probe, head_of


@dataclass(frozen=True)
class Interface:
    """How a model is addressed.

    Attributes:
        penultimate: the layer whose output is the embedding; None: the last linear layer's input.
        normalize: per-channel mean and standard deviation, if it expects images so normalised.
    """

    penultimate: str | None = None
    normalize: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Problem:
    """A checked request to unlearn.

    Attributes:
        original: f_o in eval mode, its parameters not requiring gradients; takes images in [0, 1].
        shots: the given part of D_e, (k, C, H, W) in [0, 1], on the model's device.
        target: the label of D_e.
        correct: its right label, where known.
        classes: how many classes the model answers.
        augment: what the model was trained to withstand.
        seed: of everything random.
        head: the last linear layer, whose input is the embedding; or None.
        penultimate: the layer whose output is the embedding; wins over ``head``.
    """

    original: nn.Module
    shots: Tensor
    target: int
    correct: int | None
    classes: int
    augment: Augment
    seed: int
    head: str | None
    penultimate: str | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        shots: Tensor,
        labels: Tensor,
        correct_labels: Tensor | None,
        augment: Augment,
        seed: int,
        interface: Interface,
    ) -> Problem:
        """Copy the model and check everything against it; ``unlearn.forget`` says what it is.

        Raises:
            UserError: naming the argument.
        """
        shots = _checked(shots).to(next(model.parameters()).device, torch.get_default_dtype())
        original = _original(model, interface)
        with torch.no_grad(), evaluating(original):
            logits = original(shots[:2])
        if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
            raise UserError("model", "it must give logits (B, classes) of at least two classes")
        classes, penultimate = logits.shape[1], interface.penultimate
        target = _one_label("labels", labels, len(shots), classes)
        correct = None
        if correct_labels is not None:
            correct = _one_label("correct_labels", correct_labels, len(shots), classes)
        head = None if penultimate is not None else head_of(original, shots)
        if penultimate is not None and interface.normalize is not None:
            penultimate = f"network.{penultimate}"
        return cls(original, shots, target, correct, classes, augment, seed, head, penultimate)

    @property
    def device(self) -> torch.device:
        """Where everything is computed: the device of the model's parameters."""
        return self.shots.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (self.shots.shape[1], self.shots.shape[2], self.shots.shape[3])

    def probe(self, layers: tuple[str, ...] = ()) -> Probe:
        """Hooks on f_o that show the embedding and the inputs of ``layers``."""
        return Probe(self.original, self.head, self.penultimate, layers)

    @cached_property
    def key(self) -> dict[str, Any]:
        """All that inversion depends on, JSON-like; the first link in the chain of stage keys."""
        return {
            "model": fingerprint(self.original.state_dict()),
            "shots": fingerprint({"shots": self.shots}),
            "target": self.target,
            "augment": asdict(self.augment),
            "seed": self.seed,
            "embedding": self.penultimate or self.head,
        }


def _checked(shots: Tensor) -> Tensor:
    if shots.dim() != 4 or not len(shots) or shots.shape[2] % 4 or shots.shape[3] % 4:
        raise UserError(
            "shots",
            f"{tuple(shots.shape)} is not (k, C, H, W) with k >= 1 and H, W multiples of 4",
        )
    if not shots.is_floating_point() or shots.min() < 0 or shots.max() > 1:
        raise UserError("shots", "images must be floats in [0, 1]; see normalize=")
    return shots.detach()


def _original(model: nn.Module, interface: Interface) -> nn.Module:
    """A copy of the model, in eval mode, that takes images in [0, 1] and learns nothing."""
    device = next(model.parameters()).device
    original = copy.deepcopy(model)
    if interface.normalize is not None:
        mean, std = interface.normalize
        original = Classifier(original, list(mean), list(std)).to(device)
    return gpu_layout(original).eval().requires_grad_(False)


def _one_label(name: str, labels: Tensor, number: int, classes: int) -> int:
    if labels.shape != (number,):
        raise UserError(name, f"{tuple(labels.shape)} is not one label for each shot, ({number},)")
    values = labels.unique().tolist()
    if len(values) != 1:
        raise UserError(name, f"the shots carry several labels {values}; call once for each")
    if not 0 <= int(values[0]) < classes:
        raise UserError(name, f"{values[0]} is not one of the model's {classes} classes")
    return int(values[0])
