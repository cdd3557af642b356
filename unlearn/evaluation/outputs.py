"""What a model makes of images: its answers and the norms of its features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.engine.predict import batch_on, evaluating
from unlearn.errors import UserError
from unlearn.models.probe import Probe, head_of


@dataclass
class Outputs:
    """What a model makes of images.

    Attributes:
        probabilities: its softmax, (N, classes) in float64: the entropies of sure answers differ
            only far behind the point.
        norms: L2 norms of the penultimate features, (N,).
    """

    probabilities: Tensor
    norms: Tensor

    @property
    def predicted(self) -> Tensor:
        """Predicted classes (N,)."""
        return self.probabilities.argmax(-1)


def outputs(model: nn.Module, x: Tensor) -> Outputs:
    """One pass over uint8 images (N, C, H, W), in eval mode on the model's device; on the CPU.

    Raises:
        UserError: if the model neither ends in a linear layer nor has ``features``.
    """
    probabilities, norms = [], []
    for logits, embedding in passes(model, x):
        probabilities.append(logits.double().softmax(-1).cpu())
        norms.append(torch.linalg.vector_norm(embedding, dim=1).cpu())
    return Outputs(torch.cat(probabilities), torch.cat(norms))


def features(model: nn.Module, x: Tensor) -> Tensor:
    """Penultimate features (N, d) of uint8 images (N, C, H, W), as ``outputs`` sees them.

    Raises:
        UserError: if the model neither ends in a linear layer nor has ``features``.
    """
    return torch.cat([embedding.cpu() for _, embedding in passes(model, x)])


@torch.no_grad()
def passes(model: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, classes) and penultimate features (B, d) of images, batch by batch.

    Raises:
        UserError: if the model neither ends in a linear layer nor has ``features``.
    """
    device, dtype = next(model.parameters()).device, torch.get_default_dtype()
    embed: Any = getattr(model, "features", None)
    try:
        head = head_of(model, x[:1].to(device, dtype) / 255)
    except UserError:
        if embed is None:
            raise
        head = None
    with evaluating(model), Probe(model, head) as probe:
        for part in x.split(batch_on(device)):
            images = part.to(device, dtype) / 255
            yield (model(images), embed(images)) if head is None else probe(images)
