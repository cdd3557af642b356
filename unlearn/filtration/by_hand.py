"""A split of the samples by hand, in place of the threshold's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unlearn.engine.stages import Stage
from unlearn.engine.store import Entry, fingerprint
from unlearn.errors import UserError
from unlearn.filtration.filtrate import FiltrationConfig, Proxy, among, surplus
from unlearn.problem import Problem

# Which samples are target-like, (n,) of bools.
Marks = Tensor | npt.NDArray[Any] | Sequence[bool]
KEY = "target_like"


class ByHand(Stage):
    """The proxy with the split that somebody chose.

    Args:
        target_like: (n,) bool.
    """

    name = "by_hand"
    VERSION = 1

    def __init__(self, cfg: FiltrationConfig, target_like: Tensor) -> None:
        self.cfg, self.target_like = cfg, target_like

    def key(self) -> dict[str, Any]:
        return {KEY: fingerprint({KEY: self.target_like})}

    def make(self, problem: Problem, proxy: Proxy) -> Entry:
        """Split the proxy anew."""
        return resplit(self.cfg, proxy, self.target_like, problem.targets).tensors(), {}


def marks_of(given: Marks, number: int) -> Tensor:
    """Marks as a bool tensor (number,).

    Raises:
        UserError: if they are not one bool for each sample, or mark none or all.

    Example:
        >>> marks_of([True, False], 2)
        tensor([ True, False])
    """
    try:
        marks = torch.as_tensor(np.asarray(given))
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(KEY, f"a {type(given).__name__} that is no tensor ({error})") from error
    if marks.shape != (number,) or marks.dtype != torch.bool:
        raise UserError(
            KEY,
            f"{tuple(marks.shape)} of {marks.dtype} is not one bool for each of the {number} "
            "samples",
        )
    marked = int(marks.sum())
    if not 0 < marked < number:
        raise UserError(KEY, f"{'all' if marked else 'none'} of {number} samples are marked")
    return marks.cpu()


def resplit(
    cfg: FiltrationConfig, proxy: Proxy, target_like: Tensor, targets: Sequence[int]
) -> Proxy:
    """The proxy with another D~_e. What is in neither part is chosen as ``split`` does.

    Args:
        target_like: (n,) bool.
        targets: the labels of D_e.
    """
    plus = proxy.conditions >= proxy.probabilities.shape[1]
    dropped = torch.zeros_like(target_like)
    if cfg.drop_unmatched:
        dropped |= plus & ~target_like
    if cfg.only_plus:
        answered = among(proxy.probabilities.argmax(-1), targets)
        dropped |= answered & (proxy.distances < proxy.threshold) & ~plus & ~target_like
    for target in targets:
        retained = ~target_like & ~dropped
        dropped = dropped | surplus(cfg, proxy.distances, retained, proxy.conditions, target)
    return replace(proxy, target_like=target_like, dropped=dropped)
