"""What the test images like D_e are answered, class by class."""

from __future__ import annotations

from torch import Tensor

from unlearn.engine.predict import predict
from unlearn.evaluation.base import MEASURES, Evidence


@MEASURES.register("answers")
def answers(seen: Evidence) -> dict[str, float]:
    """``answers_before_CLASS``, ``answers_after_CLASS``: how many of the test images like D_e the
    original and the measured model answer with each class.

    Without the original there is no ``before``.
    """
    task, like = seen.task, seen.task.test_forget
    found = counted("answers_after", seen.test.predicted[like], task.classes)
    original = seen.others.original()
    if original is None:
        return found
    return {
        **counted("answers_before", predict(original, task.test.x[like]), task.classes),
        **found,
    }


def counted(name: str, predicted: Tensor, classes: list[str]) -> dict[str, float]:
    """How often each class is among predicted ones (n,).

    Example:
        >>> import torch
        >>> counted("answers", torch.tensor([1, 1]), ["cat", "dog"])
        {'answers_cat': 0.0, 'answers_dog': 2.0}
    """
    numbers = predicted.bincount(minlength=len(classes)).tolist()
    return {f"{name}_{c}": float(n) for c, n in zip(classes, numbers, strict=True)}
