"""What the samples most like given images are called, by what f_o sees in each of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearn.errors import UserError
from unlearn.filtration import Proxy
from unlearn.models.probe import watched_layers
from unlearn.problem import Problem
from unlearn.relearning.intentions.neg import prevalence

NEAREST = 5  # samples that answer, in each layer
OUTER = 1 / 8  # of the layers, at either end, that have no vote
EARLY = 5 / 8  # of the layers: what an image is shows there, what it is called thereafter
GRID = 8  # places a side, to which larger features are pooled
BATCH = 64  # images in a pass: as many features of every layer are held at once
ASKED = 32  # images of a label that are looked at; more tell little more
ASKING = 5000  # samples that are asked, so that many classes do not take hours


@dataclass(frozen=True)
class Neighbours:
    """Samples as witnesses of what images are, where f_o's own answer is the wrong one.

    A wrong label that f_o has learnt shows in its last layers. In those before, an image still lies
    among what it looks like, so that neighbours there tell wrong labels (deep k-nearest neighbours:
    Papernot and McDaniel 2018; Bahri, Jiang and Gupta 2020). They take training images; samples of
    the generator, called what f_o calls them, do here. A sample need not lie where the image does:
    it may show the same thing elsewhere (``unplaced``). The very first layers see no more than
    strokes, the very last the wrong label; neither has a vote.

    Attributes:
        problem: f_o, and which layers take part in a pass.
        images: samples, uint8 (n, C, H, W).
        answers: what f_o calls them, (n,).
    """

    problem: Problem
    images: Tensor
    answers: Tensor

    @classmethod
    def among(cls, problem: Problem, proxy: Proxy) -> Neighbours:
        """Of the samples, but those made for y+: they are like D_e by its wrong label.

        Of the others those like D_e are the best witnesses, whether D~_r has them or not.
        """
        asked = proxy.conditions < problem.classes
        answers = proxy.probabilities[asked].argmax(-1)
        return cls(problem, proxy.images[asked].to(problem.device), answers.to(problem.device))

    @torch.no_grad()
    def votes(self, images: Tensor, target: int) -> Tensor:
        """Soft labels (m, classes) of m different images out of (n, C, H, W) in [0, 1].

        They are all of them, or ``ASKED``; of the samples at most ``ASKING`` are asked. In each
        layer the ``NEAREST`` samples of other labels than the target vote; every layer counts the
        same. But where the early layers show that most images are what they are called, those
        layers' votes are returned, with the target among the answers.

        Raises:
            UserError: if f_o calls all samples by the target.
        """
        if not (self.answers != target).any():
            raise UserError(
                "intention.form",
                "f_o calls all samples by the label, so that there are no others to ask; ascent, "
                "complementary and second ask none",
            )
        answers = some(self.answers, ASKING)
        apart = self._distances(some(images.unique(dim=0), ASKED), some(self.images, ASKING))
        named = F.one_hot(answers, self.problem.classes).to(torch.get_default_dtype())
        early = max(1, round((EARLY - OUTER) / (1 - 2 * OUTER) * len(apart)))
        as_called = torch.stack([nearest(d, named) for d in apart[:early]]).mean(0)
        if float(prevalence(as_called)[target]) >= 0.5:
            return as_called.to(images.dtype)
        others = answers != target
        votes = [nearest(d[:, others], named[others]) for d in apart]
        return torch.stack(votes).mean(0).to(images.dtype)

    def _distances(self, images: Tensor, samples: Tensor) -> list[Tensor]:
        """In each layer, of images (m, C, H, W) to samples (n, C, H, W), uint8: (m, n)."""
        original, part = self.problem.original, self.problem.part
        layers = inner(watched_layers(original, None, part))
        apart: dict[str, list[Tensor]] = {name: [] for name in layers}
        with self.problem.probe(layers) as probe:
            probe(images)
            mine = features(probe.seen.inputs)
            for batch in samples.split(BATCH):
                probe(batch.to(images.dtype) / 255)
                for name, theirs in features(probe.seen.inputs).items():
                    apart[name].append(unplaced(mine[name], theirs))
            probe.seen.inputs.clear()
        return [torch.cat(distances, 1) for distances in apart.values()]


def inner(layers: Sequence[str]) -> tuple[str, ...]:
    """Layers without ``OUTER`` of them at either end.

    Example:
        >>> inner("abcdefghi")
        ('b', 'c', 'd', 'e', 'f', 'g', 'h')
    """
    left = int(OUTER * len(layers))
    return tuple(layers[left : len(layers) - left])


def some(rows: Tensor, number: int) -> Tensor:
    """At most so many rows of (n, ...), evenly spread; all of them where they are no more.

    Example:
        >>> some(torch.arange(7), 3)
        tensor([0, 3, 6])
    """
    return rows[:: -(-len(rows) // number)]


def unplaced(a: Tensor, b: Tensor) -> Tensor:
    """Distances of images that may show the same thing at another place.

    Of each place of one image, the squared distance to the nearest place of the other; their mean
    over the one's places and that over the other's, added (the Chamfer distance: Barrow et al.
    1977).

    Args:
        a, b: features (m, places, d) and (n, places, d).

    Returns:
        (m, n).

    Example:
        >>> a = torch.tensor([[[0.0], [3.0]]])
        >>> unplaced(a, torch.stack([a[0].flip(0), a[0] + 1]))
        tensor([[0., 2.]])
    """
    squares = b.square().sum(-1)
    rows = []
    for one in a:
        products = one @ b.transpose(1, 2)
        d = squares[:, None] + one.square().sum(-1)[:, None] - 2 * products
        d = d.clamp_min(0)  # (n, places of a, places of b)
        rows.append(d.amin(2).mean(1) + d.amin(1).mean(1))
    return torch.stack(rows)


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


def features(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers' inputs (B, C, ...) as (B, places, C), of at most ``GRID`` places a side."""
    return {name: coarse(x.to(torch.get_default_dtype())) for name, x in inputs.items()}


def coarse(x: Tensor) -> Tensor:
    """(B, C), (B, C, N) or (B, C, H, W) -> (B, places, C): means over neighbouring places."""
    if x.dim() == 3:
        x = F.adaptive_avg_pool1d(x, min(x.shape[2], GRID**2))
    elif x.dim() == 4:
        x = F.adaptive_avg_pool2d(x, (min(x.shape[2], GRID), min(x.shape[3], GRID)))
    return x.reshape(*x.shape[:2], -1).transpose(1, 2)
