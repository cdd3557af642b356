"""Ours_cor: correct a wrong label (Section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearn.errors import UserError
from unlearn.relearning.intentions.base import INTENTIONS, Given, Intention


@INTENTIONS.register("cor")
@dataclass
class Cor(Intention):
    """D~_e is learnt with the correct label."""

    needs_correct_label: ClassVar[bool] = True
    meaning: ClassVar[str] = "answer the right class"
    name: str = "cor"

    @torch.no_grad()
    def relabel(self, images: Tensor, given: Given) -> Tensor | None:
        if given.correct is None:
            raise UserError("correct_labels", "intention cor needs the correct label of the shots")
        classes = given.original(images[:1]).shape[1]
        right = torch.full((len(images),), given.correct, device=images.device)
        return F.one_hot(right, classes).to(images.dtype)

    def held(self, logits: Tensor, given: Given) -> Tensor:
        assert given.correct is not None
        return logits.argmax(-1) == given.correct
