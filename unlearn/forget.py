"""The library call: repair a model with a few images. The command line uses it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from torch import nn

from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit
from unlearn.engine.precision import Precision
from unlearn.engine.seeding import seeded_init
from unlearn.engine.stages import Computed, Stage, Stages
from unlearn.engine.store import Entry, Store
from unlearn.engine.watch import Watch
from unlearn.errors import UserError
from unlearn.filtration import (
    ByHand,
    Filter,
    Filtration,
    FiltrationConfig,
    Marks,
    Proxy,
    check_parts,
    marks_of,
    warn_of_reach,
)
from unlearn.inversion import AnyGenerator, Inversion, InversionConfig
from unlearn.methods import METHODS, Method, MethodStage
from unlearn.models.adapt import plainly
from unlearn.problem import Images, Interface, Labels, Problem
from unlearn.relearning import (
    INTENTIONS,
    Intention,
    Relearning,
    RelearningConfig,
    check_samples,
    warn_of_one,
)
from unlearn.standins import StandIn, StandInStage


@dataclass(frozen=True)
class Settings:
    """How to unlearn. By itself as in the paper; ``unlearn.settings`` reads other values.

    Attributes:
        augment: what the model was trained to withstand.
        precision: how networks compute while they are fitted.
        intentions: values of intentions by name; one that is missing is as in the paper.
        scale: where the values came from.
        proxy: what stands in for D~_r; None is the paper's way, inversion and filtration.
        method: another method that is given the same; None is ours.
        not_for: intentions for which the configuration has other values of the stages.
    """

    augment: Augment = field(default_factory=Augment)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    filtration: FiltrationConfig = field(default_factory=FiltrationConfig)
    relearning: RelearningConfig = field(default_factory=RelearningConfig)
    precision: Precision = field(default_factory=Precision)
    intentions: Mapping[str, Intention] = field(default_factory=dict)
    scale: str = "paper"
    proxy: StandIn | None = None
    method: Method | None = None
    not_for: frozenset[str] = frozenset()

    def intention(self, name: str) -> Intention:
        """The intention of a name.

        Raises:
            UserError: if there is none of that name.
        """
        return self.intentions.get(name) or INTENTIONS[name]()

    def stages(
        self,
        intention: Intention,
        corrects: tuple[int, ...] | None = None,
        watch: Watch | None = None,
    ) -> list[Stage]:
        """The stages of a call with these settings, in their order."""
        if self.method is not None:
            return [MethodStage(self.method, intention, None if corrects is None else corrects[0])]
        if self.proxy is not None:
            first: list[Stage] = [StandInStage(self.proxy, self.filtration)]
        else:
            first = [Inversion(self.inversion), Filtration(self.filtration)]
        return [*first, Relearning(self.relearning, intention, corrects, watch)]


@dataclass
class Result:
    """What unlearning made.

    Attributes:
        model: the unlearned model, in eval mode, on the given model's device and of its types;
            without what wrapped it (``torch.compile``, ``DataParallel``).
        proxy: the samples that stood in for the training data, with their split, on the CPU; None
            for another method.
        threshold: the distance t_f below which samples are target-like; None for another method.
            If they were chosen by hand, what it would have been.
        history: losses over the steps of ``inversion`` and ``relearning``, or of another method.
        seconds: duration of each stage, as first computed.
        generator: the trained generator, in eval mode; None if something else stood in for D~_r.
        predictions: with a watch, for ``relearning`` the numbers of its ``epoch``s and for each
            the ``counts`` of predictions in every class.
        stages: the keys under which the stages are kept, and ``versions`` of their code.
        chosen: what another method chose by itself, its learning rate ``lr`` first.
    """

    model: nn.Module
    proxy: Proxy | None
    threshold: float | None
    history: dict[str, list[dict[str, float]]]
    seconds: dict[str, float]
    generator: AnyGenerator | None
    predictions: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)


def forget(
    model: nn.Module,
    shots: Images,
    labels: Labels,
    intention: str | Intention = "neg",
    correct_labels: Labels | None = None,
    *,
    augment: Augment | None = None,
    settings: Settings | None = None,
    method: str | Method | None = None,
    seed: int = 0,
    penultimate: str | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    store: Path | str | None = None,
    callbacks: Sequence[pl.Callback] = (),
    logger: Logger | None = None,
    progress: bool = False,
    watch: Watch | None = None,
    target_like: Marks | None = None,
) -> Result:
    """Unlearn what a few images show, without training data (Sections 3 and 4).

    Args:
        model: any classifier, (B, C, H, W) -> logits (B, classes), or an object, a mapping or a
            sequence of one that holds ``logits``; left as it is. Everything runs on the device of
            its parameters, in float64 if they are, else in float32. Parameters that do not require
            gradients stay as they are, unless none does. ``torch.compile``, ``DataParallel`` and
            their like are taken off.
        shots: the given part of D_e, floats (k, C, H, W) in [0, 1], a tensor or an array.
        labels: what the model answers on each of them and shall not, (k,); a tensor, an array or
            a list. Several labels are unlearned at once, each by a condition y+ of its own.
        intention: ``std``, ``unt``, ``neg``, ``cor``, or one with settings of its own.
        correct_labels: for ``cor``, the right labels (k,); all shots of a label have one.
        augment: what the model was trained to withstand, if other than the settings say.
        settings: from ``unlearn.settings``; the paper's by default.
        method: another method that is given the same, by its name (``ascent``, ``delete``, ...) or
            one with settings of its own; None is ours. docs/methods.md says what there is.
        seed: of everything random.
        penultimate: the layer whose output is the embedding; needed only if the model does not
            end in a linear layer.
        normalize: per-channel mean and standard deviation, if the model expects images so
            normalised.
        store: a folder that keeps finished stages; the same call goes on from there.
        callbacks, logger: for Lightning, during inversion and relearning.
        progress: show the stages' progress on standard error.
        watch: images whose predictions are counted after every epoch of relearning, for
            ``Result.predictions``.
        target_like: which of the samples are like the shots, (n,) of bools, in place of those
            nearer than the threshold: the ``proxy.target_like`` of an earlier call, changed by
            hand. With the same store only relearning is computed anew.

    Raises:
        UserError: if an argument cannot be.
        NotSeparable: if nothing, or everything, generated is like the shots.
        TrainingDiverged: at a NaN or infinite loss.

    Example:
        >>> import torch, unlearn
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> unlearn.forget(model, torch.rand(5, 1, 8, 8), torch.full((5,), 3), "neg")
        Traceback (most recent call last):
        ...
        unlearn.errors.UserError: labels: 3 is not one of the model's 3 classes
    """
    chosen = settings or Settings()
    if isinstance(method, str):
        method = METHODS[method]()
    if method is not None:
        chosen = replace(chosen, method=method)
    if isinstance(intention, str):
        intention = chosen.intention(intention)
    if chosen.method is not None:
        chosen.method.check(intention)
        if target_like is not None:
            raise UserError("target_like", f"{chosen.method.name} makes no samples")
    else:
        if intention.name in chosen.not_for:
            wanted = f"'intention={intention.name}'"
            raise UserError(
                "settings", f"made for another intention; give unlearn.settings {wanted} too"
            )
        stand_in = None if chosen.proxy is None else chosen.proxy.name
        check_samples(intention, chosen.relearning, stand_in)
    interface = Interface(penultimate, normalize)
    with plainly(model):
        problem = Problem.of(
            model, shots, labels, correct_labels, augment or chosen.augment, seed, interface
        )
        for target, correct in problem.pairs:
            intention.check(target, correct)
        fit = Fit(callbacks, logger, progress, watch, chosen.precision)
        computed = Computed.here(problem.device, chosen.precision)
        kept = Store(Path(store)) if store is not None else None
        stages = Stages(problem.key, computed, kept)
        return few_shot_unlearn(problem, intention, chosen, fit, stages, target_like)


@dataclass
class Sampled:
    """What stands in for the training data.

    Attributes:
        proxy: the samples and their split, on the CPU.
        generator: that made them, in eval mode; None if something else did.
        sampler: makes more of them; None if that cannot be.
        history: losses over the steps of ``inversion``.
    """

    proxy: Proxy
    generator: AnyGenerator | None
    sampler: Filter | None
    history: dict[str, list[dict[str, float]]]


def few_shot_unlearn(
    problem: Problem,
    intention: Intention,
    settings: Settings,
    fit: Fit,
    stages: Stages,
    target_like: Marks | None = None,
) -> Result:
    """Inversion, filtration, relearning (Section 4): the whole method; or another one.

    What either is given is the same: the problem and the intention.
    """
    fit.precision.check(problem.device)
    problem.warn()
    if settings.method is not None:
        return by_method(problem, intention, settings.method, fit, stages)
    made = sample(problem, settings, fit, stages)
    proxy = made.proxy
    if target_like is not None:
        proxy = by_hand(problem, settings, proxy, target_like, stages)
    elif settings.proxy is None:
        check_parts(proxy, problem.targets)
        warn_of_reach(proxy, problem.targets)
        warn_of_one(settings.relearning, problem.shots)
    relearning = Relearning(settings.relearning, intention, problem.corrects, fit.watch)
    state, relearned = run(
        problem, stages, relearning, lambda: relearning.make(problem, proxy, made.sampler, fit)
    )
    predictions = relearned.get("predictions")
    return Result(
        problem.repaired(state),
        proxy,
        float(proxy.threshold),
        {**made.history, "relearning": relearned["history"]},
        stages.seconds,
        made.generator,
        {} if predictions is None else {"relearning": predictions},
        stages.keys,
        stages.versions,
    )


def run(problem: Problem, stages: Stages, stage: Stage, make: Callable[[], Entry]) -> Entry:
    """A stage's tensors and remark, from the store or made."""
    with seeded_init(problem.seed, stage.name):  # for models that draw in eval mode
        return stages.run(stage, make)


def sample(problem: Problem, settings: Settings, fit: Fit, stages: Stages) -> Sampled:
    """Inversion and filtration, or what stands in for both; however the samples are split.

    Raises:
        NotSeparable: if no sample passes the refinement.
    """
    if settings.proxy is not None:
        standin = StandInStage(settings.proxy, settings.filtration)
        tensors, _ = run(problem, stages, standin, lambda: standin.make(problem))
        return Sampled(Proxy(**tensors), None, None, {})
    inversion, filtration = Inversion(settings.inversion), Filtration(settings.filtration)
    state, inverted = run(problem, stages, inversion, lambda: inversion.make(problem, fit))
    generator = inversion.generator(problem, state)
    tensors, _ = run(problem, stages, filtration, lambda: filtration.make(problem, generator))
    sampler = filtration.sampler(problem, generator)
    return Sampled(Proxy(**tensors), generator, sampler, {"inversion": inverted["history"]})


def by_hand(
    problem: Problem, settings: Settings, proxy: Proxy, target_like: Marks, stages: Stages
) -> Proxy:
    """The proxy with the split that somebody chose; as it is if it is split so already.

    Raises:
        UserError: if the marks are not of these samples, or there is nothing to split.
    """
    if settings.proxy is not None:
        raise UserError("target_like", f"proxy={settings.proxy.name} makes no target-like samples")
    marks = marks_of(target_like, len(proxy.target_like))
    if bool((marks == proxy.target_like).all()):
        return proxy
    stage = ByHand(settings.filtration, marks)
    tensors, _ = run(problem, stages, stage, lambda: stage.make(problem, proxy))
    return Proxy(**tensors)


def by_method(
    problem: Problem, intention: Intention, method: Method, fit: Fit, stages: Stages
) -> Result:
    """What another method makes."""
    if len(problem.targets) > 1:
        raise UserError("labels", f"{method.name} takes shots of one label")
    only = MethodStage(method, intention, problem.correct)
    state, remark = run(problem, stages, only, lambda: only.make(problem, fit))
    name, chosen = only.name, remark["chosen"]
    history = {name: remark["history"], f"{name}_lr": rates(chosen.get("tried", []))}
    return Result(
        problem.repaired(state),
        None,
        None,
        {stage: rows for stage, rows in history.items() if rows},
        stages.seconds,
        None,
        stages=stages.keys,
        versions=stages.versions,
        chosen=chosen,
    )


def rates(tried: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The learning rates that were tried, as rows of a history: their number is the step."""
    return [
        {"step": number, "lr": row["lr"], "held": row["held"], "steps": row["steps"]}
        for number, row in enumerate(tried, 1)
    ]
