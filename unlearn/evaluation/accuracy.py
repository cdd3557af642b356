"""Accuracies on D_r and D_e (Section 5.1)."""

from __future__ import annotations

from torch import Tensor

from unlearn.evaluation.base import MEASURES, Evidence
from unlearn.scenarios import Task


def share(hits: Tensor) -> float:
    """How many of (N,) are true, in [0, 1]."""
    return int(hits.sum()) / len(hits)


def accuracies(task: Task, predicted: Tensor) -> dict[str, float]:
    """Shares in [0, 1] of predicted classes (M,) of the test set.

    Returns:
        ``D_r``: right on the rest of the test set; ``D_e``: test images like D_e that are
        predicted as the label that counts (7 for crossed sevens in every scenario).
    """
    right = predicted == task.test.y
    return {
        "D_r": share(right[~task.test_forget]),
        "D_e": share(predicted[task.test_forget] == task.counted),
    }


@MEASURES.register("accuracy")
def accuracy(seen: Evidence) -> dict[str, float]:
    """``D_r``, ``D_e``: test accuracies; ``train_D_r``, ``train_D_e``: the same on D."""
    task, predicted = seen.task, seen.train.predicted
    return {
        **accuracies(task, seen.test.predicted),
        "train_D_r": share((predicted == task.train.y)[~task.forget]),
        "train_D_e": share(predicted[task.forget] == task.counted),
    }
