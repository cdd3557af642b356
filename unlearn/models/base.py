"""What the classifiers share: their registry, their normalisation layers, input scaling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from unlearn.engine.predict import logits_of
from unlearn.errors import choices
from unlearn.models.origin import AnyModel, Size, Trained, load_sized
from unlearn.models.saving import FileWeights
from unlearn.registry import Registry


class InstanceNorm(nn.GroupNorm):
    """A group norm with one group for each channel, images (B, channels, H, W).

    The channels come first in memory: torch's group norm is slow on a CPU where they lie last.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.contiguous())


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda c: nn.GroupNorm(1, c),
    "instance": InstanceNorm,
}


@dataclass
class ModelConfig(AnyModel):
    """One of our own networks: registered name, norm (batch, layer, instance), first width."""

    name: str = "preact_resnet18"
    norm: str = "batch"
    width: int = 64

    def fresh(self, channels: int, classes: int, size: Size) -> nn.Module:
        return MODELS[self.name](self, channels, classes)

    def trained(self, size: Size) -> Trained:
        path = self.needed_checkpoint()

        def make(channels: int, classes: int) -> Classifier:
            return Classifier(
                self.fresh(channels, classes, size), [0.0] * channels, [1.0] * channels
            )

        classifier, found = load_sized(make, path)
        network = classifier.get_submodule(found.within)
        # Saved by this program, it has its normalisation within.
        normalises = isinstance(network, Classifier)
        return Trained(network, FileWeights(path, replace(found, within="")), normalises)


MODELS: Registry[Callable[[ModelConfig, int, int], nn.Sequential]] = Registry("model")


def norm_layer(norm: str) -> Callable[[int], nn.Module]:
    """Maker of a normalisation layer for a number of channels.

    ``layer`` and ``instance`` are the group norms with one group and one group per channel, as in
    the paper's Appendix D.2.
    """
    if norm not in NORMS:
        raise choices("model.norm", norm, NORMS)
    return NORMS[norm]


class Classifier(nn.Module):
    """A network behind a per-channel input normalisation, so that it takes images in [0, 1].

    Whatever holds the network's logits, it answers the logits alone.
    """

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, classes)."""
        return logits_of(self.network(self._normalised(images)))

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> the last layer's input (B, d), of a sequential network."""
        body = nn.Sequential(*list(self.network.children())[:-1])
        return cast(Tensor, body(self._normalised(images)))

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)
