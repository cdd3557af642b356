"""Reference models: what networks answer that were trained on random halves of D."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unlearn.engine.seeding import seeded

NUMBER = 8


@dataclass(frozen=True)
class References:
    """What reference models answer.

    Attributes:
        halves: (k, N) bool, the images of D that each of k models was trained on.
        forget: softmax (k, n, classes) on D_e's n training images.
        test: softmax (k, M, classes) on the test set.
    """

    halves: Tensor
    forget: Tensor
    test: Tensor


def complementary_halves(rows: int, number: int, seed: int) -> Tensor:
    """Random halves of D in pairs: what one model is trained on, its partner is not.

    So every image is new to exactly half of the models.

    Args:
        rows: images of D.
        number: of models, even.

    Returns:
        (number, rows) bool.

    Example:
        >>> halves = complementary_halves(10, 4, seed=0)
        >>> halves.sum(0).tolist() == [2] * 10, bool((halves[0] ^ halves[1]).all())
        (True, True)
    """
    rng = seeded(seed, "reference halves")
    halves = torch.zeros(number, rows, dtype=torch.bool)
    for first in range(0, number, 2):
        halves[first, torch.randperm(rows, generator=rng)[: rows // 2]] = True
        halves[first + 1] = ~halves[first]
    return halves
