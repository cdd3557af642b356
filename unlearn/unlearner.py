"""The unlearner: a model, a few images and an intention in; an unlearned model out.

It is never handed a data set, and nothing it imports can load one.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from unlearn.augment import Augment
from unlearn.computing import Computing
from unlearn.errors import UserError
from unlearn.filtration import Filter, FiltrationConfig, Proxy, filtrate
from unlearn.inversion import Generator, Inversion, InversionConfig, build_generator, invert
from unlearn.models.base import Classifier
from unlearn.models.probe import Probe, evaluating, head_of
from unlearn.relearning import Intention, RelearningConfig, relearn
from unlearn.stage import gpu_layout, seeded
from unlearn.store import Made, Store, fingerprint, state_of
from unlearn.trainer import check_devices
from unlearn.version import __version__
from unlearn.watch import Watch, key_of, remark_of

log = logging.getLogger(__name__)


@dataclass
class Settings:
    """How to unlearn; ``unlearn.settings`` fills it from conf/, ``scale`` is where it came from."""

    scale: str
    augment: Augment
    inversion: InversionConfig
    filtration: FiltrationConfig
    relearning: RelearningConfig
    computing: Computing = field(default_factory=Computing)


@dataclass
class Result:
    """What unlearning made.

    Attributes:
        model: the unlearned model, in eval mode, on the given model's device.
        proxy: the samples that stood in for the training data, with their split, on the CPU.
        threshold: the distance t_f below which samples are target-like.
        history: losses over the steps of ``inversion`` and ``relearning``.
        seconds: duration of each stage, as first computed.
        generator: the trained generator, in eval mode.
        predictions: with a watch, for ``relearning`` the numbers of its ``epoch``s and for each
            the ``counts`` of predictions in every class.
    """

    model: nn.Module
    proxy: Proxy
    threshold: float
    history: dict[str, list[dict[str, float]]]
    seconds: dict[str, float]
    generator: Generator
    predictions: dict[str, dict[str, list[Any]]] = field(default_factory=dict)


@dataclass
class _Inputs:
    """The checked arguments of ``forget``."""

    original: nn.Module
    shots: Tensor
    target: int
    correct: int | None
    classes: int
    head: str | None
    penultimate: str | None
    key: dict[str, Any] = field(default_factory=dict)


def few_shot_unlearn(
    model: nn.Module,
    shots: Tensor,
    labels: Tensor,
    intention: Intention,
    correct_labels: Tensor | None,
    settings: Settings,
    *,
    seed: int = 0,
    penultimate: str | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    store: Path | str | None = None,
    callbacks: Sequence[pl.Callback] = (),
    logger: Logger | None = None,
    progress: bool = False,
    watch: Watch | None = None,
    devices: int = 1,
) -> Result:
    """Inversion, filtration, relearning; ``unlearn.forget`` says what the arguments are."""
    cfg = settings
    given = _check(model, shots, labels, correct_labels, intention, penultimate, normalize, seed)
    augment = cfg.augment
    device = given.shots.device
    check_devices(devices, device)
    cfg.computing.check(device, devices)
    how: dict[str, Any] = {
        "callbacks": callbacks,
        "logger": logger,
        "progress": progress,
        "devices": devices,
        "computing": cfg.computing,
    }
    keep = Store(Path(store)) if store is not None else None
    seconds: dict[str, float] = {}

    def stage(name: str, key: dict[str, Any], make: Any) -> Made:
        def timed() -> Made:
            start = time.perf_counter()
            tensors, remark = make()
            return tensors, {**remark, "seconds": time.perf_counter() - start}

        made = keep.get(name, key, timed) if keep else timed()
        seconds[name] = made[1]["seconds"]
        return made

    generator = build_generator(cfg.inversion, given.classes, _shape(given.shots), seed)
    generator = gpu_layout(generator.to(device))

    def make_generator() -> Made:
        module = Inversion(
            cfg.inversion,
            generator,
            given.original,
            given.shots,
            given.target,
            given.classes,
            augment,
            seed,
            given.head,
            given.penultimate,
        )
        history = invert(module, device, **how)
        return state_of(generator), {"history": history}

    key = given.key | {
        "augment": asdict(augment),
        "inversion": _plain(cfg.inversion),
        "computing": asdict(cfg.computing),
    }
    state, inverted = stage("inversion", key, make_generator)
    generator.load_state_dict(state)
    generator.eval()

    def make_proxy() -> Made:
        found = filtrate(
            cfg.filtration,
            generator,
            given.original,
            given.shots,
            given.target,
            augment,
            seed,
            given.head,
            given.penultimate,
        )
        return found.tensors(), {}

    key = key | {"filtration": asdict(cfg.filtration), "generator": fingerprint(state)}
    tensors, _ = stage("filtration", key, make_proxy)
    proxy = Proxy(**tensors)

    def make_model() -> Made:
        probe = Probe(given.original, given.head, given.penultimate)
        rng = seeded(seed, "fresh", device=device)
        unlearned, history = relearn(
            cfg.relearning,
            given.original,
            proxy,
            given.shots,
            intention,
            given.target,
            given.correct,
            augment,
            seed,
            **how,
            watch=watch,
            sampler=Filter(cfg.filtration, generator, probe, augment, rng),
        )
        return state_of(unlearned), {"history": history, **remark_of(watch, "relearning")}

    key = key | {
        "relearning": asdict(cfg.relearning),
        "intention": asdict(intention),
        "correct": given.correct,
        "proxy": fingerprint(tensors),
        **key_of(watch),
    }
    state, relearned = stage("relearning", key, make_model)
    unlearned = given.original.requires_grad_(True)
    unlearned.load_state_dict(state)
    return Result(
        unlearned.network if normalize is not None else unlearned,  # type: ignore[arg-type]
        proxy,
        float(proxy.threshold),
        {"inversion": inverted["history"], "relearning": relearned["history"]},
        seconds,
        generator,
        {"relearning": relearned["predictions"]} if watch is not None else {},
    )


def _check(
    model: nn.Module,
    shots: Tensor,
    labels: Tensor,
    correct_labels: Tensor | None,
    intention: Intention,
    penultimate: str | None,
    normalize: tuple[Sequence[float], Sequence[float]] | None,
    seed: int,
) -> _Inputs:
    """Copy the model and check everything against it.

    Raises:
        UserError: naming the argument.
    """
    if shots.dim() != 4 or not len(shots) or shots.shape[2] % 4 or shots.shape[3] % 4:
        raise UserError(
            "shots",
            f"{tuple(shots.shape)} is not (k, C, H, W) with k >= 1 and H, W multiples of 4",
        )
    if not shots.is_floating_point() or shots.min() < 0 or shots.max() > 1:
        raise UserError("shots", "images must be floats in [0, 1]; see normalize=")
    device = next(model.parameters()).device
    original = copy.deepcopy(model)
    if normalize is not None:
        original = Classifier(original, list(normalize[0]), list(normalize[1])).to(device)
    gpu_layout(original).eval().requires_grad_(False)
    shots = shots.detach().to(device, torch.get_default_dtype())
    with torch.no_grad(), evaluating(original):
        logits = original(shots[:2])
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        raise UserError("model", "it must give logits (B, classes) of at least two classes")
    classes = logits.shape[1]
    target = _one_label("labels", labels, len(shots), classes)
    correct = None
    if correct_labels is not None:
        correct = _one_label("correct_labels", correct_labels, len(shots), classes)
    if intention.needs_correct_label and (correct is None or correct == target):
        raise UserError(
            "correct_labels",
            f"intention {intention.name} needs the right labels, other than the wrong one "
            f"({target})",
        )
    head = None if penultimate is not None else head_of(original, shots)
    if penultimate is not None and normalize is not None:
        penultimate = f"network.{penultimate}"
    key = {
        "version": __version__,
        "model": fingerprint(original.state_dict()),
        "shots": fingerprint({"shots": shots}),
        "target": target,
        "seed": seed,
        "embedding": penultimate or head,
    }
    return _Inputs(original, shots, target, correct, classes, head, penultimate, key)


def _one_label(name: str, labels: Tensor, number: int, classes: int) -> int:
    if labels.shape != (number,):
        raise UserError(name, f"{tuple(labels.shape)} is not one label for each shot, ({number},)")
    values = labels.unique().tolist()
    if len(values) != 1:
        raise UserError(name, f"the shots carry several labels {values}; call once for each")
    if not 0 <= int(values[0]) < classes:
        raise UserError(name, f"{values[0]} is not one of the model's {classes} classes")
    return int(values[0])


def _shape(shots: Tensor) -> tuple[int, int, int]:
    return (shots.shape[1], shots.shape[2], shots.shape[3])


def _plain(cfg: Any) -> dict[str, Any]:
    """A stage's settings less those that only show something."""
    return asdict(replace(cfg, grid_every=0))
