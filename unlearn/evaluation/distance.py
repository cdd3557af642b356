"""How far a model's answers are from an oracle's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def distances(
    p: Tensor,
    q: Tensor,
    erased: Tensor,
    ours: Mapping[str, float],
    oracle: Mapping[str, float],
) -> dict[str, float]:
    """The distance of a model from the oracle.

    Args:
        p, q: softmax (M, classes) on the test set, of the model and of the oracle.
        erased: (M,) bool, the test images like D_e.
        ours, oracle: measures with ``D_r`` and ``D_e``.

    Returns:
        ``oracle_agreement`` (share of equal predictions) and ``oracle_js`` (nats), on the whole
        test set and, with ``_D_e``, on the images like D_e; ``oracle_abs_D_r``,
        ``oracle_abs_D_e`` and ``tug_of_war`` (all shares).
    """
    return {
        "oracle_agreement": agreement(p, q),
        "oracle_agreement_D_e": agreement(p[erased], q[erased]),
        "oracle_js": js_divergence(p, q),
        "oracle_js_D_e": js_divergence(p[erased], q[erased]),
        "oracle_abs_D_r": abs(ours["D_r"] - oracle["D_r"]),
        "oracle_abs_D_e": abs(ours["D_e"] - oracle["D_e"]),
        "tug_of_war": tug_of_war(ours["D_r"], ours["D_e"], oracle["D_r"], oracle["D_e"]),
    }


def agreement(p: Tensor, q: Tensor) -> float:
    """Share of images with the same answer: (N, classes) twice -> [0, 1]."""
    return int((p.argmax(-1) == q.argmax(-1)).sum()) / len(p)


def js_divergence(p: Tensor, q: Tensor) -> float:
    """Mean over the images of the Jensen-Shannon divergence, in nats: 0 to log 2."""
    p, q = p.double(), q.double()
    m = (p + q) / 2
    divergences = [(torch.xlogy(a, a) - torch.xlogy(a, m)).sum(-1) for a in (p, q)]
    return float(((divergences[0] + divergences[1]) / 2).mean().clamp_min(0))


def tug_of_war(d_r: float, d_e: float, oracle_d_r: float, oracle_d_e: float) -> float:
    """How near two accuracies are to an oracle's at once, 1 if they are equal: the product of
    1 - |difference| (Zhao et al. 2024, What makes unlearning hard and what to do about it)."""
    return (1 - abs(d_r - oracle_d_r)) * (1 - abs(d_e - oracle_d_e))
