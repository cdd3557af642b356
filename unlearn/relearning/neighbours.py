"""What the samples most like an image are called, by what f_o sees in each of its layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearn.errors import UserError
from unlearn.filtration import Proxy
from unlearn.models.probe import watched_layers
from unlearn.problem import Problem

NEAREST = 15  # samples that answer, in each layer
GRID = 8  # places a side, to which larger features are pooled
BATCH = 64  # images in a pass: as many features of every layer are held at once


@dataclass(frozen=True)
class Neighbours:
    """D~_r as a witness of what an image is, where f_o's own answer is the wrong one.

    A wrong label that f_o has learnt shows in its last layers. In those before, an image still lies
    among what it looks like, so that neighbours there tell wrong labels (deep k-nearest neighbours:
    Papernot and McDaniel 2018; Bahri, Jiang and Gupta 2020). They take training images; samples of
    the generator, called what f_o calls them, do here.

    Attributes:
        problem: f_o, and which layers take part in a pass.
        images: D~_r, uint8 (n, C, H, W).
        answers: what f_o calls them, (n,).
    """

    problem: Problem
    images: Tensor
    answers: Tensor

    @classmethod
    def among(cls, problem: Problem, proxy: Proxy) -> Neighbours:
        """Of the samples to be kept."""
        kept = proxy.retained
        answers = proxy.probabilities[kept].argmax(-1)
        return cls(problem, proxy.images[kept].to(problem.device), answers.to(problem.device))

    @torch.no_grad()
    def votes(self, images: Tensor, target: int) -> Tensor:
        """Soft labels (m, classes) for images (m, C, H, W) in [0, 1]; none is the target's.

        In each layer the ``NEAREST`` samples of other labels vote, by Euclidean distance; every
        layer counts the same. The mean is sharpened.

        Raises:
            UserError: if f_o calls all samples by the target.
        """
        others = self.answers != target
        answers = self.answers[others]
        if not len(answers):
            raise UserError(
                "intention.form",
                "f_o calls all samples by the label, so that there are no others to ask; ascent, "
                "complementary and second ask none",
            )
        different, which = images.unique(dim=0, return_inverse=True)
        parts = [self._votes(part, others, answers) for part in different.split(BATCH)]
        return torch.cat(parts)[which].to(images.dtype)

    def _votes(self, images: Tensor, others: Tensor, answers: Tensor) -> Tensor:
        samples = self.images[others]
        original, part = self.problem.original, self.problem.part
        layers = watched_layers(original, None, part)
        apart: dict[str, list[Tensor]] = {name: [] for name in layers}
        with self.problem.probe(layers) as probe:
            probe(images)
            mine = features(probe.seen.inputs)
            for some in samples.split(BATCH):
                probe(some.to(images.dtype) / 255)
                for name, theirs in features(probe.seen.inputs).items():
                    apart[name].append(torch.cdist(mine[name], theirs))
            probe.seen.inputs.clear()
        named = F.one_hot(answers, self.problem.classes).to(torch.get_default_dtype())
        each = [nearest(torch.cat(distances, 1), named) for distances in apart.values()]
        return sharpened(torch.stack(each).mean(0))


def nearest(distances: Tensor, labels: Tensor, number: int = NEAREST) -> Tensor:
    """The mean label of each image's nearest samples.

    Args:
        distances: (m, n).
        labels: of the samples, (n, classes).

    Returns:
        (m, classes).

    Example:
        >>> nearest(torch.tensor([[3.0, 1.0, 2.0]]), torch.eye(3), 2)
        tensor([[0.0000, 0.5000, 0.5000]])
    """
    chosen = distances.topk(min(number, distances.shape[1]), largest=False).indices
    return labels[chosen].mean(1)


def sharpened(p: Tensor, temperature: float = 0.5) -> Tensor:
    """p^(1/T), summing to 1, of each row (m, classes): MixMatch's (Berthelot et al. 2019, Eq. 7).

    Example:
        >>> sharpened(torch.tensor([[0.75, 0.25]]))
        tensor([[0.9000, 0.1000]])
    """
    powers = p ** (1 / temperature)
    return powers / powers.sum(-1, keepdim=True)


def features(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers' inputs (B, C, ...) as rows (B, d), of at most ``GRID`` places a side."""
    return {name: coarse(x.to(torch.get_default_dtype())) for name, x in inputs.items()}


def coarse(x: Tensor) -> Tensor:
    """(B, C), (B, C, N) or (B, C, H, W) -> (B, d): means over neighbouring places."""
    if x.dim() == 3:
        x = F.adaptive_avg_pool1d(x, min(x.shape[2], GRID**2))
    elif x.dim() == 4:
        x = F.adaptive_avg_pool2d(x, (min(x.shape[2], GRID), min(x.shape[3], GRID)))
    return x.flatten(1)
