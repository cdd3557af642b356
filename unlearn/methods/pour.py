"""pour: a projection of the last layer takes the class away (POUR-P)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from unlearn.errors import UserError
from unlearn.methods.base import METHODS, Method, Repaired, share_held
from unlearn.problem import Problem
from unlearn.relearning import Intention


@METHODS.register("pour")
@dataclass
class Pour(Method):
    """W <- W P with P = I - w_y w_y^T / |w_y|^2, w_y the class's row of the last layer W.

    "POUR-P" (CVPR 2026): closed form, no steps; of the shots only the label counts. For whole
    classes: it is a strong control, since whatever is called y loses that answer. Known error: it
    says nothing of a subclass, whose class it takes away as a whole, and is refused there. The
    class's bias stays.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"intention", "shot"})
    needs_whole_class: ClassVar[bool] = True
    name: str = "pour"

    @torch.no_grad()
    def unlearn(self, problem: Problem, intention: Intention) -> Repaired:
        if problem.head is None:
            raise UserError("baseline", "pour needs a model that ends in a linear layer")
        model = problem.student()
        head = model.get_submodule(problem.head)
        assert isinstance(head, nn.Linear)
        if not head.weight.requires_grad:
            raise UserError("model", f"pour changes layer {problem.head!r}, which is frozen")
        w = head.weight[problem.target].clone()
        head.weight -= torch.outer(head.weight @ w, w) / w.square().sum().clamp_min(1e-30)
        held = share_held(model, problem.shots, intention, problem, self.name)
        return Repaired(model, [], {"held": held, "reached": held == 1})
