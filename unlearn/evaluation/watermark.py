"""Norms of the penultimate features: the watermark of Table 2."""

from __future__ import annotations

from torch import Tensor

from unlearn.evaluation.base import MEASURES, Evidence


@MEASURES.register("norm")
def norm(seen: Evidence) -> dict[str, float]:
    """``norm_D_r``, ``norm_D_e``: mean L2 norm of the penultimate features; ``*_std``: its spread
    over the images."""
    found = {}
    for name, rows in (("D_r", ~seen.task.forget), ("D_e", seen.task.forget)):
        found[f"norm_{name}"], found[f"norm_{name}_std"] = feature_norms(seen.train.norms[rows])
    return found


def feature_norms(norms: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over the images of (N,) norms: the watermark of Table 2."""
    return float(norms.mean()), float(norms.std()) if len(norms) > 1 else 0.0
