"""Original: f_o as it is, no unlearning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unlearn.baselines.base import BASELINES, Baseline, FullAccess, Outcome


@BASELINES.register("original")
@dataclass
class Original(Baseline):
    """The original model; one for all seeds."""

    uses: ClassVar[frozenset[str]] = frozenset()
    aim: ClassVar[str | None] = "std"
    changes_nothing: ClassVar[bool] = True

    def unlearn(self, access: FullAccess) -> Outcome:
        return Outcome(access.original)
