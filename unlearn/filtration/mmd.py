"""Distance of a sample to the shots: maximum mean discrepancy with an RBF kernel (Section 4.2).

Between the one-point set {x} and D_e the biased squared MMD is
``k(x,x) - 2 mean_e k(x,e) + mean_ee' k(e,e')``; kernels of several bandwidths are averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rbf(a: Tensor, b: Tensor, bandwidths: Tensor) -> Tensor:
    """Mean over ``bandwidths`` (m,) of exp(-|a-b|^2 / (2 s^2)): (n, d), (k, d) -> (n, k)."""
    squared = torch.cdist(a, b).square()
    return torch.stack([torch.exp(-squared / (2 * s * s)) for s in bandwidths]).mean(0)


def mmd_to(x: Tensor, shots: Tensor, bandwidths: Tensor, block: int = 4096) -> Tensor:
    """Biased squared MMD of each {x_i} to D_e, in blocks of rows.

    Args:
        x: embeddings (n, d).
        shots: embeddings of D_e (k, d).
        bandwidths: (m,), in the embedding's unit.
        block: rows of ``x`` times rows of ``shots`` held at once, in thousands, at the least one
            row of ``x``: memory does not grow with n.

    Returns:
        (n,), in [0, 2].
    """
    rows = max(1, block * 1000 // max(1, len(shots)))
    own = _mean_kernel(shots, bandwidths, rows)
    cross = torch.cat([rbf(part, shots, bandwidths).mean(1) for part in x.split(rows)])
    return 1 - 2 * cross + own


def leave_one_out(shots: Tensor, bandwidths: Tensor) -> Tensor:
    """MMD of each shot to the others: (k, d) -> (k,), k >= 2."""
    kernel = rbf(shots, shots, bandwidths)
    k = len(shots)
    off = kernel - torch.diag(kernel.diag())
    cross = off.sum(1) / (k - 1)
    inside = (kernel.sum() - 2 * off.sum(1) - 1) / (k - 1) ** 2
    return 1 - 2 * cross + inside


def median_bandwidth(reference: Tensor, limit: int = 2000) -> Tensor:
    """The median heuristic: the median distance between different rows of (k, d), k >= 2.

    It follows the embedding's scale, so that one setting serves every network.
    """
    distances = torch.nn.functional.pdist(reference[:limit])
    positive = distances[distances > 0]
    return positive.median() if len(positive) else reference.new_tensor(1.0)


def _mean_kernel(shots: Tensor, bandwidths: Tensor, rows: int) -> Tensor:
    return torch.cat([rbf(part, shots, bandwidths).mean(1) for part in shots.split(rows)]).mean()
