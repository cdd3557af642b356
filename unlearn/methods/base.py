"""What another method is that is given the model and the shots, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unlearn.engine.fitting import Fit
from unlearn.engine.precision import Precision, kernels
from unlearn.engine.predict import evaluating
from unlearn.engine.stages import Stage
from unlearn.engine.store import Entry, state_of
from unlearn.errors import TrainingDiverged, UserError
from unlearn.problem import Problem
from unlearn.registry import Registry
from unlearn.relearning import INTENTIONS, Given, Intention


@dataclass
class Competitor:
    """Any method that is compared with ours, whatever it is given.

    Attributes:
        VERSION: raised whenever its code gives other numbers than before.
        uses: which of the knobs ``intention``, ``shot`` and ``seed`` change its result.
        aim: the intention whose oracle it is measured against; None is the run's own.
        sees_all: whether it is given all of D.
    """

    VERSION: ClassVar[int] = 1
    uses: ClassVar[frozenset[str]] = frozenset({"seed"})
    aim: ClassVar[str | None] = None
    sees_all: ClassVar[bool] = False
    name: str = ""


@dataclass
class Repaired:
    """What a method made.

    Attributes:
        model: the unlearned model.
        history: of its losses, by step.
        chosen: what it chose by itself: the learning rate ``lr``, the ``steps``, the share of the
            shots on which the intention is ``held``, whether all of it is ``reached``, and the
            rates ``tried``.
    """

    model: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass
class Method(Competitor, ABC):
    """One method. One file with one registered class and one YAML adds another.

    It is handed a ``Problem`` and an ``Intention``: there is no field through which training data
    could come.

    Attributes:
        needs_correct_label: whether it teaches the right label (``cor``), or unteaches the wrong
            one (the others).
        needs_whole_class: whether D_e must be a whole class.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"intention", "shot", "seed"})
    needs_correct_label: ClassVar[bool] = False
    needs_whole_class: ClassVar[bool] = False

    def check(self, intention: Intention) -> None:
        """Refuse settings out of range, and an intention that it does not serve.

        Raises:
            UserError: naming the setting and what it allows.
        """
        self.check_settings()
        if intention.needs_correct_label != self.needs_correct_label:
            able = [n for n in INTENTIONS if serves(INTENTIONS[n], self)]
            raise UserError(
                "intention", f"{self.name} serves {', '.join(able)}, not {intention.name}"
            )

    def check_settings(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: naming the setting and what it allows.
        """

    def passes(self, shots: int) -> float:
        """About how many images it trains on, each pass counted; to estimate its time."""
        return 0

    @abstractmethod
    def unlearn(self, problem: Problem, intention: Intention) -> Repaired:
        """Unlearn what the shots show from a copy of f_o.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
            UserError: if the model is not one that the method can be used on.
        """


def serves(intention: type[Intention], method: Method | type[Method]) -> bool:
    """Whether a method serves an intention."""
    return intention.needs_correct_label == method.needs_correct_label


@torch.no_grad()
def answered(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (n, classes) of a model in eval mode for images (n, C, H, W)."""
    with evaluating(model):
        return torch.cat([model(part) for part in images.split(256)])


def share_held(
    model: nn.Module, images: Tensor, intention: Intention, problem: Problem, name: str
) -> float:
    """The share of images on which a model answers as intended, in [0, 1].

    Args:
        name: the method's, for the error.

    Raises:
        TrainingDiverged: if it answers NaN or infinities.
    """
    logits = answered(model, images)
    if not bool(logits.isfinite().all()):
        raise TrainingDiverged(name, 0, "the model answers NaN; lower the learning rate")
    given = Given(problem.original, problem.target, problem.correct, problem.seed)
    return float(intention.held(logits, given).double().mean())


class MethodStage(Stage):
    """The model that another method makes of f_o and the shots."""

    def __init__(self, method: Method, intention: Intention, correct: int | None = None) -> None:
        self.name, self.VERSION = method.name, method.VERSION
        self.method, self.intention, self.correct = method, intention, correct

    def key(self) -> dict[str, Any]:
        intention = asdict(self.intention.for_oracle())
        return {"method": asdict(self.method), "intention": intention, "correct": self.correct}

    def make(self, problem: Problem, fit: Fit) -> Entry:
        """Unlearn, in float32: a few images take no time. The losses go to the fit's logger.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
            UserError: if the model is not one that the method can be used on.
        """
        with kernels(Precision("fp32"), problem.device):
            made = self.method.unlearn(problem, self.intention)
        if fit.logger is not None:
            for row in made.history:
                named = {f"{self.name}/{k}": v for k, v in row.items() if k != "step"}
                fit.logger.log_metrics(named, int(row["step"]))
        return state_of(made.model), {"history": made.history, "chosen": made.chosen}


METHODS: Registry[type[Method]] = Registry("method")
