"""Ours_std: standard unlearning (Section 4.3). Scrub D~_e, then go on with D~_r alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unlearn.relearning.intentions.base import INTENTIONS, Given, Intention


@INTENTIONS.register("std")
@dataclass
class Std(Intention):
    """No intention about the response to D~_e, beyond losing the original one."""

    meaning: ClassVar[str] = "no matter what, as long as it is lost"
    name: str = "std"
    scrub_epochs: int = 2

    def relabel(self, images: Tensor, given: Given) -> Tensor | None:
        return None
