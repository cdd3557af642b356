"""What is measured of a model on a task: test accuracy on D_r and D_e."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlearn.models.probe import evaluating
from unlearn.scenarios import Task


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 500) -> Tensor:
    """Predicted classes (N,) of uint8 images (N, C, H, W), on the CPU."""
    device = next(model.parameters()).device
    with evaluating(model):
        parts = [model(p.to(device).float() / 255).argmax(-1).cpu() for p in x.split(batch_size)]
    return torch.cat(parts)


def answered(model: nn.Module, task: Task, label: int) -> float:
    """Share of the test images like D_e that are given a label, in [0, 1]."""
    return share(predict(model, task.test.x[task.test_forget]) == label)


def accuracies(model: nn.Module, task: Task) -> dict[str, float]:
    """Shares in [0, 1]: ``D_r``, right on the rest of the test set; ``D_e``, test images like D_e
    that are predicted as the label that counts (7 for crossed sevens in every scenario)."""
    predicted = predict(model, task.test.x)
    right = predicted == task.test.y
    return {
        "D_r": share(right[~task.test_forget]),
        "D_e": share(predicted[task.test_forget] == task.counted),
    }


def share(hits: Tensor) -> float:
    """How many of (N,) are true, in [0, 1]."""
    return int(hits.sum()) / len(hits)
