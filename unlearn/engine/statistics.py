"""Statistics of answers and of layers' inputs, in float32 at least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Of a BatchNorm that only multiplies and adds: 1 + TINY is 1.
TINY = 1e-30


def wide(x: Tensor) -> Tensor:
    """At least float32, for sums and statistics; what is so already stays itself."""
    # Types of 8 bits are not promoted by torch.
    return x.float() if x.is_floating_point() and x.itemsize < 4 else x


def entropy(p: Tensor) -> Tensor:
    """H in nats: (B, classes) -> (B,).

    Example:
        >>> entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        tensor([0.0000, 0.6931])
    """
    entropies: Tensor = torch.special.entr(p).sum(-1)
    return entropies


def pooled(features: Tensor) -> Tensor:
    """(B, d, ...) -> (B, d): means over space, as a classifier's pooling would take."""
    return features.flatten(2).mean(2) if features.dim() > 2 else features


def channel_means(x: Tensor) -> Tensor:
    """mu over all but the channel axis: (B, C, ...) -> (C,)."""
    x = wide(x)
    return x.flatten(2).mean((0, 2)) if x.dim() > 2 else x.mean(0)


@dataclass(frozen=True)
class Rows:
    """Some images of a batch, each at most once.

    Attributes:
        index: which ones, (k,).
        weights: of each in a mean, (k,), of sum 1.
    """

    index: Tensor
    weights: Tensor

    def means(self, x: Tensor) -> Tensor:
        """Their ``channel_means``, weighted: (B, C, ...) -> (C,)."""
        rows = _Selected.apply(x, self.index)  # type: ignore[no-untyped-call]
        return _weighted(rows, self.weights)


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all but the channel axis: (B, C, ...) -> (C,), (C,)."""
    none = x.new_empty(0)
    mean, variance, _ = _Moments.apply(x, none.long(), wide(none))  # type: ignore[no-untyped-call]
    return mean, variance


def statistics_and_means(x: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """``channel_statistics(x)`` and ``rows.means(x)``, with one gradient of x for both."""
    return cast(
        tuple[Tensor, Tensor, Tensor],
        _Moments.apply(x, rows.index, rows.weights),  # type: ignore[no-untyped-call]
    )


def _weighted(x: Tensor, weights: Tensor) -> Tensor:
    means = pooled(wide(x))
    return weights.to(means.dtype) @ means


class _Selected(torch.autograd.Function):
    """Rows, each at most once: no two add to a place of the gradient, in whichever order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.number = len(x)
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        whole = gradient.new_zeros(ctx.number, *gradient.shape[1:])
        return whole.index_copy_(0, index, gradient), None


class _Moments(torch.autograd.Function):
    """Mean and biased variance of (B, C, ...), and weighted means of some rows.

    BatchNorm's own code reads narrow numbers as they are and sums wide ones. The gradient is linear
    in x for each channel, which BatchNorm in eval mode computes in one pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        zeros = wide(x.new_zeros(x.shape[1]))
        mean, variance = torch.batch_norm_update_stats(x, zeros, torch.zeros_like(zeros), 0.0)
        ctx.save_for_backward(x, mean, index, weights)
        return mean, variance, _weighted(x.index_select(0, index), weights)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, to_mean: Tensor, to_variance: Tensor, to_means: Tensor
    ) -> tuple[Tensor, None, None]:
        x, mean, index, weights = ctx.saved_tensors
        number = x.numel() // x.shape[1]
        slope = to_variance * (2 / number)
        shift = to_mean / number - slope * mean
        zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
        gradient = F.batch_norm(x, zeros, ones, slope, shift, eps=TINY)
        if len(index):
            space = number // len(x)
            more = weights[:, None] * (to_means / space)
            more = more.view(*more.shape, *[1] * (x.dim() - 2))
            part = gradient.index_select(0, index) + more
            gradient.index_copy_(0, index, part.to(gradient.dtype))
        return gradient, None, None
