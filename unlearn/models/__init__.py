"""Classifiers: images in [0, 1] of shape (B, C, H, W) to logits (B, classes)."""

from __future__ import annotations

from unlearn.models.base import MODELS, Classifier, ModelConfig
from unlearn.models.loading import Loaded, load_model
from unlearn.models.origin import ORIGINS, AnyModel, Size
from unlearn.registry import import_all

import_all(__name__, __path__)

list_models = MODELS.list


def model_class(name: str) -> type[AnyModel]:
    """The settings' class of a model's name: an origin, or our own networks'."""
    return ORIGINS[name] if name in ORIGINS.list() else ModelConfig


def build(
    cfg: AnyModel,
    channels: int,
    classes: int,
    mean: list[float],
    std: list[float],
    size: Size = (32, 32),
) -> Classifier:
    """A freshly initialised classifier; ``mean`` and ``std`` normalise its input, per channel."""
    return Classifier(cfg.fresh(channels, classes, size), mean, std)


__all__ = [
    "MODELS",
    "ORIGINS",
    "AnyModel",
    "Classifier",
    "Loaded",
    "ModelConfig",
    "build",
    "list_models",
    "load_model",
    "model_class",
]
