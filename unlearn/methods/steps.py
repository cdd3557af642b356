"""Methods that take steps on the shots, and the one rule by which all of them choose a rate.

Half of the shots is held out of the steps. Of a grid of learning rates the smallest is taken that
reaches the intention on that half within the limit of steps. Then all the shots are learnt at that
rate until the intention holds on all of them, for at most five times as many steps. One shot stands
with its augmented copies. The published numbers of epochs assume thousands of images of D_e; with
24 shots "20 epochs" are 20 steps, so that steps are what is set.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.engine.fitting import batched, number_of_batches
from unlearn.engine.seeding import seeded
from unlearn.errors import TrainingDiverged, UserError, choices
from unlearn.methods.base import Method, Repaired, share_held
from unlearn.models.probe import freeze_batchnorm
from unlearn.problem import Problem
from unlearn.relearning import Intention

log = logging.getLogger(__name__)

GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LONGER = 5  # times the limit of steps, for all the shots: there are more of them to be reached
COPIES = 15  # augmented ones of a single shot, beside it
HINT = "lower baseline.lr, or leave it to the rule: auto"

Losses = Mapping[str, Tensor]
History = list[dict[str, float]]


def nothing(_model: nn.Module) -> None:
    """Nothing is done after a step."""


@dataclass(frozen=True)
class Objective:
    """What a method minimises on some images.

    Attributes:
        losses: named losses of a model on rows (b,) of the images, with a generator for what is
            drawn; the one called ``loss`` is minimised.
        stepped: called with the model after every step.
        over: whether the steps end, told from the losses so far; None: once the intention holds.
    """

    losses: Callable[[nn.Module, Tensor, torch.Generator], Losses]
    stepped: Callable[[nn.Module], None] = nothing
    over: Callable[[History], bool] | None = None


@dataclass
class Stepwise(Method):
    """A method that takes steps of SGD on the shots.

    Attributes:
        lr: ``auto``, by the rule; or a number.
        steps: at most so many with each rate; with the one that was chosen, five times as many.
        batch_size: shots in a step.
        batchnorm: ``frozen`` keeps the running statistics. ``train``, as published, does not: 20
            steps then replace 88 % of them by those of the shots.
    """

    lr: int | float | str = "auto"
    steps: int = 100
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 0.0
    batchnorm: str = "frozen"

    def check_settings(self) -> None:
        if self.lr != "auto" and (isinstance(self.lr, str) or not self.lr > 0):
            raise UserError("baseline.lr", f"{self.lr!r} is neither auto nor a number above 0")
        at_least(self, 1, "steps", "batch_size")
        at_least(self, 0, "weight_decay")
        if not 0 <= self.momentum < 1:
            raise UserError("baseline.momentum", f"{self.momentum!r} is not a number in [0, 1)")
        if self.batchnorm not in ("frozen", "train"):
            raise choices("baseline.batchnorm", self.batchnorm, ("frozen", "train"))
        if self.batchnorm == "train":
            at_least(self, 2, "batch_size")  # a BatchNorm that is trained refuses one image

    def passes(self, shots: int) -> float:
        # About half the grid on half the shots, then all of them.
        rates = len(GRID) / 4 if self.lr == "auto" else 0
        return (rates + 1) * self.steps * min(shots, self.batch_size)

    @abstractmethod
    def objective(self, problem: Problem, images: Tensor) -> Objective:
        """What is minimised on images (n, C, H, W): the shots, or one and its copies."""

    def unlearn(self, problem: Problem, intention: Intention) -> Repaired:
        images = several(problem)
        descent = Descent(self, problem, intention, images, self.objective(problem, images))
        tried: History = []
        if isinstance(self.lr, str):
            lr, tried = descent.choose()
        else:
            lr = float(self.lr)
        everything = torch.arange(len(images), device=images.device)
        limit = self.steps * (LONGER if self.lr == "auto" else 1)
        done = descent.go(lr, everything, everything, limit)
        if not done.reached:
            log.warning(
                "%s: with lr %g the intention holds on %.0f %% of the shots after %d steps",
                *(self.name, lr, 100 * done.held, done.steps),
            )
        chosen: dict[str, Any] = {"lr": lr, "steps": done.steps, "held": done.held}
        chosen |= {"reached": done.reached, "tried": tried}
        return Repaired(done.model, done.history, chosen)


def at_least(method: Method, low: float, *keys: str) -> None:
    """Refuse numbers below ``low``.

    Raises:
        UserError: naming the first of ``keys`` that is.
    """
    for key in keys:
        if not getattr(method, key) >= low:
            raise UserError(f"baseline.{key}", f"{getattr(method, key)!r} is not {low} or more")


def positive(method: Method, *keys: str) -> None:
    """Refuse numbers that are not above 0.

    Raises:
        UserError: naming the first of ``keys`` that is not.
    """
    for key in keys:
        if not getattr(method, key) > 0:
            raise UserError(f"baseline.{key}", f"{getattr(method, key)!r} is not above 0")


def several(problem: Problem) -> Tensor:
    """The shots; a single one with augmented copies of it."""
    if len(problem.shots) > 1:
        return problem.shots
    rng = seeded(problem.seed, "copies", device=problem.device)
    copies = problem.augment(problem.shots.expand(COPIES, -1, -1, -1).contiguous(), rng)
    return torch.cat([problem.shots, copies])


@dataclass
class Done:
    """The end of some steps.

    Attributes:
        held: the share of the images watched on which the intention holds; ``reached``: it is all.
    """

    model: nn.Module
    history: History
    steps: int
    held: float

    @property
    def reached(self) -> bool:
        return self.held == 1


@dataclass
class Descent:
    """The steps of a method.

    Attributes:
        images: (n, C, H, W), of which rows are taken.
    """

    method: Stepwise
    problem: Problem
    intention: Intention
    images: Tensor
    objective: Objective

    def choose(self) -> tuple[float, History]:
        """The smallest rate that reaches the intention on the half that no step saw, and all that
        were tried; if none does, the one that reaches most of it.

        Raises:
            TrainingDiverged: if the smallest one gives a NaN or infinite loss.
        """
        name, number = self.method.name, len(self.images)
        order = torch.randperm(number, generator=seeded(self.problem.seed, name, "half"))
        learnt, watched = order.to(self.images.device).tensor_split([(number + 1) // 2])
        tried: History = []
        for lr in GRID:
            try:
                done = self.go(lr, learnt, watched, self.method.steps)
            except TrainingDiverged:
                if not tried:
                    raise
                break  # and so would the larger ones
            tried.append({"lr": lr, "held": done.held, "steps": done.steps})
            if done.reached:
                return lr, tried
        best = max(tried, key=lambda row: row["held"])  # the smallest of equals
        log.warning(
            "%s: no lr from %g to %g reaches the intention on the held-out half within %d steps; "
            "takes %g, which reaches %.0f %% of it",
            *(name, GRID[0], GRID[-1], self.method.steps, best["lr"], 100 * best["held"]),
        )
        return best["lr"], tried

    def go(self, lr: float, learnt: Tensor, watched: Tensor, limit: int) -> Done:
        """Steps on rows ``learnt`` until the intention holds on rows ``watched``, or the limit.

        It is looked at after every pass over the rows learnt.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
        """
        method, objective = self.method, self.objective
        model = self.problem.student()
        if method.batchnorm == "frozen":
            freeze_batchnorm(model)
        rng = seeded(self.problem.seed, method.name, "steps", device=self.images.device)
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr,
            method.momentum,
            weight_decay=method.weight_decay,
        )
        every = number_of_batches(len(learnt), method.batch_size)
        batches, history = self.batches(learnt, rng), History()
        held = self.held(model, watched)
        over = objective.over is None and held == 1
        while not over and len(history) < limit:
            losses = objective.losses(model, next(batches), rng)
            if not bool(losses["loss"].isfinite()):
                raise TrainingDiverged(method.name, len(history), HINT)
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
            objective.stepped(model)
            history.append(
                {"step": len(history) + 1, **{k: float(v.detach()) for k, v in losses.items()}}
            )
            if len(history) % every == 0 or len(history) == limit:
                held = history[-1]["held"] = self.held(model, watched)
                over = held == 1 if objective.over is None else objective.over(history)
        return Done(model, history, len(history), held)

    def batches(self, rows: Tensor, rng: torch.Generator) -> Iterator[Tensor]:
        """Shuffled batches, pass after pass without end."""
        while True:
            order = torch.randperm(len(rows), device=rows.device, generator=rng)
            yield from batched(rows[order], self.method.batch_size)

    def held(self, model: nn.Module, rows: Tensor) -> float:
        """The share of rows on which the intention holds."""
        images = self.images[rows]
        return share_held(model, images, self.intention, self.problem, self.method.name)
