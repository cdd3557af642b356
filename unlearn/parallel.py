"""One batch over several processes: each rank computes its share of the rows.

Every rank draws the same batch, and from everybody's answers works out the same loss. What goes
through ``total`` comes back summed over the ranks, so each rank's gradient is its share in that of
the sum of all the (equal) losses, ``world`` times the loss. The mean over the ranks that DDP takes
is then the gradient of the loss, however uneven the shares.

Where there is one process, nothing here changes anything, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from unlearn.computing import forward, wide
from unlearn.models import probe

_alone = False


def world() -> int:
    """How many processes share the batch."""
    return 1 if _alone or not dist.is_initialized() else dist.get_world_size()


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process computes everything by itself."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def total(x: Tensor) -> Tensor:
    """The sum of all ranks' ``x``, differentiable."""
    return x if world() == 1 else all_reduce(x)


def share(x: Tensor) -> Tensor:
    """This rank's rows of a batch that all ranks hold."""
    return x if world() == 1 else x[_rows(len(x))]


def gather(mine: Tensor, number: int) -> Tensor:
    """The ``number`` rows of a batch from all ranks' shares of it, differentiable."""
    if world() == 1:
        return mine
    batch = mine.new_zeros(number, *mine.shape[1:])
    batch[_rows(number)] = mine
    return total(batch)


def spread(function: Callable[..., Tensor], *batch: Tensor) -> Tensor:
    """``function`` of a batch that all ranks hold, each of them computing its share, as the stage
    at work would have it (``computing.forward``).

    Fewer rows than ranks are computed by every rank: many a model cannot take an empty batch.
    """
    number = len(batch[0])
    if number < world():
        with alone():
            return forward(function, *batch)
    return gather(forward(function, *(share(x) for x in batch)), number)


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """``probe.channel_statistics`` over all ranks' rows."""
    return probe.channel_statistics(x) if world() == 1 else _moments(x)[:2]


def sync_norms(module: nn.Module) -> None:
    """Let every BatchNorm in train mode take its statistics over all ranks' rows.

    Unlike torch's SyncBatchNorm it works on the CPU too, and leaves names and types as they are.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.forward = MethodType(_synced, norm)  # type: ignore[method-assign]


def _synced(norm: _BatchNorm, x: Tensor) -> Tensor:
    """A BatchNorm's forward pass with global statistics."""
    running = norm.running_mean is not None and norm.running_var is not None
    if world() == 1 or (running and not norm.training):
        return type(norm).forward(norm, x)
    mean, variance, count = _moments(x)
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        with torch.no_grad():
            norm.num_batches_tracked += 1
            rate: Any = norm.momentum
            if rate is None:
                rate = norm.num_batches_tracked.to(norm.running_mean.dtype).reciprocal()
            unbiased = variance * count / (count - 1).clamp_min(1)
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), rate)
    scale, shift = (variance + norm.eps).rsqrt(), -mean
    columns = (1, -1, *(1,) * (x.dim() - 2))
    y = (x + shift.view(columns)) * scale.view(columns)
    if norm.affine:
        y = y * norm.weight.view(columns) + norm.bias.view(columns)
    return y.to(x.dtype)


def _rows(number: int) -> slice:
    rank, size = dist.get_rank(), dist.get_world_size()
    return slice(number * rank // size, number * (rank + 1) // size)


def _flat(x: Tensor) -> Tensor:
    return wide(x.flatten(2) if x.dim() > 2 else x[..., None])


def _mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over all ranks of (B, C, n), and over how many values it is."""
    sums = total(torch.cat([x.sum((0, 2)), x.new_full((1,), x.shape[0] * x.shape[2])]))
    return sums[:-1] / sums[-1], sums[-1].detach()


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of values of all ranks' (B, C, ...)."""
    x = _flat(x)
    mean, count = _mean(x)
    return mean, total((x - mean[:, None]).square().sum((0, 2))) / count, count
