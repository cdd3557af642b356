"""Answers of a model in eval mode, its own modes and the random state left as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode; each one's own mode is restored after."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 500) -> Tensor:
    """Predicted classes (N,) of uint8 images (N, C, H, W), on the CPU."""
    device = next(model.parameters()).device
    with evaluating(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        parts = [
            model(part.to(device, torch.get_default_dtype()) / 255).argmax(-1).cpu()
            for part in x.split(batch_size)
        ]
    return torch.cat(parts)
