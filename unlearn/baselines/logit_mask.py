"""logit_mask: a control that forgets nothing: it only hides a class.

Whoever erases a whole class must do better than this, which gives D_e = 0 and a D_r no lower than
the original's by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unlearn.baselines.base import BASELINES, Baseline, FullAccess, Outcome
from unlearn.errors import UserError
from unlearn.models.adapt import copied
from unlearn.models.probe import head_of
from unlearn.scenarios import Scenario
from unlearn.scenarios.base import needs_whole_class

# Its softmax is 0 in float32, and unlike minus infinity it keeps every loss and gradient finite.
MASKED = -1e4


@BASELINES.register("logit_mask")
@dataclass
class LogitMask(Baseline):
    """The class's logit is a large negative constant; all else stays as it is."""

    uses: ClassVar[frozenset[str]] = frozenset()
    aim: ClassVar[str | None] = "std"

    def check(self, scenario: Scenario) -> None:
        if not scenario.whole_class:
            raise UserError("baseline", needs_whole_class("logit_mask", scenario.name))

    @torch.no_grad()
    def unlearn(self, access: FullAccess) -> Outcome:
        device = access.device
        model = copied(access.original)
        x = access.task.test.x[:1].to(device).to(torch.get_default_dtype()) / 255
        head = model.get_submodule(head_of(model, x))
        assert isinstance(head, nn.Linear)
        if head.bias is None:
            raise UserError("baseline", "logit_mask needs a last layer with a bias")
        head.weight[access.task.target] = 0
        head.bias[access.task.target] = MASKED
        return Outcome(model.eval())
