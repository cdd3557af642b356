"""Classifiers: images in [0, 1] of shape (B, C, H, W) to logits (B, classes)."""

from __future__ import annotations

from unlearn.models.base import MODELS, Classifier, ModelConfig
from unlearn.registry import import_all

import_all(__name__, __path__)

list_models = MODELS.list


def build(
    cfg: ModelConfig, channels: int, classes: int, mean: list[float], std: list[float]
) -> Classifier:
    """A freshly initialised classifier; ``mean`` and ``std`` normalise its input, per channel."""
    return Classifier(MODELS[cfg.name](cfg, channels, classes), mean, std)


__all__ = ["MODELS", "Classifier", "ModelConfig", "build", "list_models"]
