"""D~_e under somebody's hand: the threshold moved, single samples taken in or out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from unlearn.errors import UserError
from unlearn.filtration import FiltrationConfig, Proxy, among, split


class Split:
    """A split of samples that are already made; changing it computes nothing anew.

    Attributes:
        proxy: the samples, as filtration split them.
        order: the samples that may be target-like, those that f_o answers with a label of D_e;
            the nearest first, (m,).
        threshold: samples below it are target-like.
        chosen: what was taken in (True) or out (False) by hand, by the sample's number.
    """

    def __init__(self, cfg: FiltrationConfig, proxy: Proxy, targets: Sequence[int]) -> None:
        self.cfg, self.proxy, self.targets = cfg, proxy, targets
        answered = among(proxy.probabilities.argmax(-1), targets)
        nearest = proxy.distances.argsort(stable=True)
        self.order: list[int] = nearest[answered[nearest]].tolist()
        self.threshold = self.automatic = float(proxy.threshold)
        self.chosen: dict[int, bool] = {}

    @property
    def movable(self) -> bool:
        """Whether the threshold decides anything; where D_e is a whole class, it does not."""
        return bool(self.order) and not self.cfg.whole_class

    @property
    def range(self) -> tuple[float, float, float]:
        """The threshold's smallest value, with none of ``order`` nearer, its largest, with all of
        them nearer, and a step between them; numbers of few digits."""
        if not self.order:
            return 0.0, 1.0, 0.01
        distances = self.proxy.distances[self.order]
        low = min(float(distances.min()), self.automatic)
        high = max(float(distances.max()), self.automatic)
        step = 10.0 ** math.floor(math.log10(max(high - low, 1e-4) / 100))
        digits = max(0, -math.floor(math.log10(step)))
        low, high = (math.floor(low / step) - 1) * step, (math.ceil(high / step) + 1) * step
        return round(low, digits), round(high, digits), round(step, digits)

    def target_like(self) -> Tensor:
        """(n,) bool, D~_e as it is now."""
        if self.threshold == self.automatic:
            like = self.proxy.target_like.clone()
        else:
            p = self.proxy.probabilities
            plus = self.proxy.conditions >= p.shape[1]
            like, _ = split(self.cfg, self.proxy.distances, p, plus, self.threshold, self.targets)
        for sample, taken in self.chosen.items():
            like[sample] = taken
        return like

    def move(self, threshold: float) -> None:
        """Set the threshold; what was chosen by hand stays."""
        self.threshold = float(threshold)

    def toggle(self, sample: int) -> None:
        """Take a sample in if it is out, and out if it is in.

        Raises:
            UserError: if it is not one of ``order``.
        """
        if sample not in self.order:
            raise UserError("sample", f"{sample} is none of those that may be target-like")
        self.chosen[sample] = not bool(self.target_like()[sample])

    def reset(self) -> None:
        """As filtration split them."""
        self.threshold, self.chosen = self.automatic, {}

    @property
    def boundary(self) -> int:
        """How many of ``order`` are nearer than the threshold."""
        return int((self.proxy.distances[self.order] < self.threshold).sum())


def share_in(like: Tensor) -> str:
    """How many are target-like, in words.

    Example:
        >>> import torch
        >>> share_in(torch.tensor([True, False, False]))
        '1 of 3 samples'
    """
    return f"{int(like.sum())} of {len(like)} samples"
