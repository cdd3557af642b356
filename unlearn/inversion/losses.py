"""The losses of model inversion, one pure function each, named as in the paper (Section 4.1, F).

``f_o`` is the original model; B is the batch of generated images, P the random augmentations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def l_ent(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of ``f_o(x)`` (B, classes) and the condition's label (B,), in nats."""
    return F.cross_entropy(logits, labels)


def l_aug(p: Tensor, p_augmented: Tensor) -> Tensor:
    """Eq. 1: squared distance of ``f_o``'s softmax on x and on its augmentations.

    Args:
        p: (B, classes).
        p_augmented: (P, B, classes).

    Returns:
        The sum over augmentations, averaged over the batch.
    """
    return (p_augmented - p).square().sum(-1).sum(0).mean()


def l_tar(means: Sequence[Tensor], targets: Sequence[Tensor], squared: bool = True) -> Tensor:
    """Eq. 2: distance of the layers' mean inputs over B+ and over D_e, summed over the layers.

    Args:
        means: mu_l(B+), one (channels,) tensor a layer.
        targets: mu_l(D_e), likewise.
        squared: squared norms as in the paper, or plain ones.
    """
    return _distances(means, targets, squared)


def l_bn(
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    running_means: Sequence[Tensor],
    running_variances: Sequence[Tensor],
    squared: bool = True,
) -> Tensor:
    """Distance of batch statistics to the running ones, summed over the BatchNorm layers.

    Section 4.1, after Yin et al. (2020). Every argument holds one (channels,) tensor a layer.
    """
    return _distances(means, running_means, squared) + _distances(
        variances, running_variances, squared
    )


@dataclass(frozen=True)
class Conditions:
    """Which rows of a batch share a condition, in a form that compares no others.

    Attributes:
        place: of each row (B,) in (number x most), where a condition has ``most`` places.
        number: how many conditions there are.
        most: how many rows a condition has at most.
    """

    place: Tensor
    number: int
    most: int

    @classmethod
    def of(cls, conditions: Tensor, number: int, most: int | None = None) -> Conditions:
        """Of conditions (B,) in [0, number).

        Args:
            most: at least as many as any condition has rows; None: counted, and a GPU waited for.
        """
        member = F.one_hot(conditions, number)
        before = (member.cumsum(0) - 1).gather(1, conditions[:, None])[:, 0]
        most = most or int(member.sum(0).max())
        return cls(conditions * most + before, number, most)

    def __call__(self, x: Tensor) -> Tensor:
        """Rows (B, d) as (number, most, d); 0 where a condition has fewer."""
        empty = x.new_zeros(self.number * self.most, x.shape[1])
        return empty.index_copy(0, self.place, x).view(self.number, self.most, -1)


def l_div(z: Tensor, features: Tensor, conditions: Conditions, scaled: bool = True) -> Tensor:
    """Eq. 5, against mode collapse: exp(-mean_ij |z_i - z_j|_2 |f_i - f_j|_1), for each condition.

    Args:
        z: noise (B, z).
        features: penultimate outputs of ``f_o`` (B, d).
        conditions: which rows share one.
        scaled: divide both distances by their natural size, sqrt(2 z) and the mean |f|_1 of the
            batch (not differentiated). Unscaled, the exponential is 0 and so is its gradient.

    Returns:
        The mean over the conditions that occur.
    """
    zs, fs = conditions(z), conditions(features)
    z_distance, f_distance = torch.cdist(zs, zs), torch.cdist(fs, fs, p=1.0)
    if scaled:
        z_distance = z_distance / (2 * z.shape[1]) ** 0.5
        f_distance = f_distance / features.detach().abs().sum(1).mean().clamp_min(1e-12)
    here = conditions(features.new_ones(len(features), 1))
    total = (z_distance * f_distance * (here * here.mT)).sum((1, 2))
    count = here.sum((1, 2))
    present = (count > 0).to(features.dtype)
    return (torch.exp(-total / count.square().clamp_min(1)) * present).sum() / present.sum()


def l_tv(x: Tensor, reduction: str = "mean") -> Tensor:
    """Eq. 6: squared differences of neighbouring pixels, each pair counted from both sides.

    Args:
        x: images (B, C, H, W).
        reduction: ``sum`` over batch and pairs as in Eq. 6, or ``mean`` over batch, pixels and
            channels, which does not grow with the image.
    """
    total = 2 * (x.diff(dim=-1).square().sum() + x.diff(dim=-2).square().sum())
    return total / x.numel() if reduction == "mean" else total


def _distances(a: Sequence[Tensor], b: Sequence[Tensor], squared: bool) -> Tensor:
    gaps = [(x - y).square().sum() for x, y in zip(a, b, strict=True)]
    return torch.stack(gaps if squared else [(g + 1e-12).sqrt() for g in gaps]).sum()
