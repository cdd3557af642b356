"""Answers of a model in eval mode, its own modes and the random state left as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.errors import UserError


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


def logits_of(answer: Any) -> Tensor:
    """The logits in what a model answers.

    Args:
        answer: a tensor; an object with ``.logits``, as torchvision's networks with auxiliary
            heads and most of Hugging Face's give; a mapping with ``logits``; or a sequence of one
            of these.

    Raises:
        UserError: if it holds none, or several tensors of which any may be the logits.

    Example:
        >>> logits_of({"logits": torch.zeros(1, 2)})
        tensor([[0., 0.]])
    """
    if isinstance(answer, Tensor):
        return answer
    held = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if isinstance(held, Tensor):
        return held
    if isinstance(answer, (tuple, list)) and len(answer) == 1:
        return logits_of(answer[0])
    size = f" of {len(answer)}" if isinstance(answer, (tuple, list)) else ""
    raise UserError(
        "model",
        f"it answers a {type(answer).__name__}{size} instead of logits (B, classes); give a module "
        "that answers the logits alone, or an object with .logits",
    )


def batch_on(device: torch.device) -> int:
    """How many images to ask about at once: a CPU's cache holds few, a GPU is idle with few."""
    return 64 if device.type == "cpu" else 500


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes (N,) of uint8 images (N, C, H, W), on the CPU."""
    weights = next(p for p in model.parameters() if p.is_floating_point())
    device, dtype = weights.device, weights.dtype
    with evaluating(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        parts = []
        for part in x.split(batch_on(device)):
            images = part.to(device, torch.get_default_dtype()).div_(255).to(dtype)
            parts.append(logits_of(model(images)).argmax(-1).cpu())
    return torch.cat(parts)
