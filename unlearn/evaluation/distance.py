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
        ours, oracle: measures with ``D_r``, ``D_e``, ``train_D_r`` and ``train_D_e``.

    Returns:
        ``oracle_agreement`` (share of equal predictions) and ``oracle_js`` (nats), on the whole
        test set and, with ``_D_e``, on the images like D_e; differences of accuracy, on the test
        set ``oracle_abs_D_r``, ``oracle_abs_D_e`` and ``oracle_abs_test`` (all of it), on the
        training images ``oracle_abs_train_D_r`` and ``oracle_abs_train_D_e``; ``tug_of_war``, of
        its three factors the last three (all shares).
    """
    parts = ("D_r", "D_e", "train_D_r", "train_D_e")
    gaps = {f"oracle_abs_{part}": abs(ours[part] - oracle[part]) for part in parts}
    gaps["oracle_abs_test"] = abs(whole(ours, erased) - whole(oracle, erased))
    factors = (gaps[f"oracle_abs_{part}"] for part in ("train_D_e", "train_D_r", "test"))
    return {
        "oracle_agreement": agreement(p, q),
        "oracle_agreement_D_e": agreement(p[erased], q[erased]),
        "oracle_js": js_divergence(p, q),
        "oracle_js_D_e": js_divergence(p[erased], q[erased]),
        **gaps,
        "tug_of_war": tug_of_war(*factors),
    }


def whole(measured: Mapping[str, float], erased: Tensor) -> float:
    """Accuracy on the whole test set, of which (M,) ``erased`` are like D_e."""
    part = float(erased.double().mean())
    return part * measured["D_e"] + (1 - part) * measured["D_r"]


def agreement(p: Tensor, q: Tensor) -> float:
    """Share of images with the same answer: (N, classes) twice -> [0, 1]."""
    return int((p.argmax(-1) == q.argmax(-1)).sum()) / len(p)


def js_divergence(p: Tensor, q: Tensor) -> float:
    """Mean over the images of the Jensen-Shannon divergence, in nats: 0 to log 2."""
    p, q = p.double(), q.double()
    m = (p + q) / 2
    divergences = [(torch.xlogy(a, a) - torch.xlogy(a, m)).sum(-1) for a in (p, q)]
    return float(((divergences[0] + divergences[1]) / 2).mean().clamp_min(0))


def tug_of_war(d_e: float, d_r: float, test: float) -> float:
    """How near a model is to the oracle in all that counts at once, in [0, 1]; 1 is as the oracle.

    (1 - |dD_e|) (1 - |dD_r|) (1 - |dTest|), where d is a difference of accuracies (Zhao et al.
    2024, What makes unlearning hard and what to do about it).

    Args:
        d_e, d_r: differences on the training images of D_e and D_r, in [-1, 1].
        test: difference on the test set.
    """
    return (1 - abs(d_e)) * (1 - abs(d_r)) * (1 - abs(test))
