"""What is learnt again: D~_r with f_o's answers and D~_e with the intention's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from unlearn.engine.stages import later
from unlearn.errors import UserError
from unlearn.filtration import Proxy, among
from unlearn.problem import Problem
from unlearn.relearning.intentions import AGREEMENT, Given, Intention
from unlearn.relearning.neighbours import Neighbours

log = logging.getLogger(__name__)


@dataclass
class RelearningConfig:
    """How the model is adjusted; conf/scale/paper.yaml tells where the values are from."""

    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 2e-5
    schedule: str = later("constant")
    clip: float | None = None
    batchnorm: str = "train"
    temperature: float = 1.0
    shot_copies: int = 0
    forget_weight: float = 1.0
    forget: str = "samples"
    own_label_weight: float = 1.0
    led_label_weight: float | None = later(None)
    teacher: str = "stored"
    mixup: float = later(0.0)
    adversarial: float = later(0.0)
    adversarial_forget: float = later(0.0)
    anchor: float = 0.0
    interpolate: float | None = None
    average: float | None = later(None)
    stop: float | None = None
    fresh: bool = False
    candidates: int = 1


@dataclass
class Portion:
    """What one step learns.

    Attributes:
        images: (b, C, H, W) in [0, 1].
        labels: soft labels (b, classes).
        retain, forget: (b,) bool, in D~_r and in D~_e; a row may be in neither.
    """

    images: Tensor
    labels: Tensor
    retain: Tensor
    forget: Tensor


@dataclass
class Lesson:
    """The relearning data on one device.

    Attributes:
        images: uint8 (n, C, H, W): samples, and after them the given images.
        labels: soft labels (n, classes): f_o's on D~_r, the intention's on D~_e.
        forget: (n,) bool, D~_e.
        intention: what D~_e shall be answered.
        imposed: whether it says anything on D~_e after scrubbing.
        conditions: what each was generated for, (n,) in Y+; -1 for the given images.
        targets: the label of D_e that each of D~_e is like, (m,).
    """

    images: Tensor
    labels: Tensor
    forget: Tensor
    intention: Intention
    imposed: bool
    conditions: Tensor
    targets: Tensor

    @property
    def led(self) -> bool:
        """Whether the labels of D~_e give most to one answer, other than its own."""
        if not self.imposed:
            return False
        share = self.labels[self.forget].mean(0)
        share[self.targets.unique()] = 0
        return float(share.max()) >= AGREEMENT

    def take(self, rows: Tensor) -> Portion:
        """The data of ``rows`` (b,)."""
        images = self.images.index_select(0, rows).to(torch.get_default_dtype()) / 255
        forget = self.forget[rows]
        return Portion(images, self.labels[rows], ~forget, forget)


class Data(Protocol):
    """Where a step's data come from: the stored samples, or fresh ones in their place."""

    def take(self, rows: Tensor) -> Portion: ...


def prepare(
    cfg: RelearningConfig,
    proxy: Proxy,
    shots: Tensor,
    intention: Intention,
    given: Given | Sequence[Given],
    shot_labels: Tensor | None = None,
) -> Lesson:
    """D~_r with f_o's soft labels and D~_e, with copies of every shot, relabelled.

    The copies are ``shot_copies``, or fewer where the shots would outnumber the samples of D~_e
    (one of each at least): a proxy of D_e is what is learnt from, a few images steer it. Where
    the shots alone are D~_e, they shall be about as many as the samples of a condition (of each
    label), since every image of D~_e adds to its loss: many would cost D_r. Where no sample is
    like the shots, as of a stand-in, all copies are taken.

    Args:
        given: what the intention may look at; of several labels of D_e, for each of them.
        shot_labels: of several labels, which one each shot has, (k,).
    """
    device = shots.device
    givens = [given] if isinstance(given, Given) else list(given)
    if shot_labels is None:
        shot_labels = torch.full((len(shots),), givens[0].target)
    retained, like = proxy.retained.to(device), proxy.target_like.to(device)
    images = proxy.images.to(device)
    conditions = proxy.conditions.to(device)
    given_shots = (shots * 255).round().to(torch.uint8)
    copies = cfg.shot_copies
    if like.any():
        fitting = int(like.sum()) // len(shots)
        if cfg.forget == "shots":
            of_a_condition = int(conditions.bincount().max())
            fitting = round(len(givens) * of_a_condition / len(shots))
        copies = min(copies, max(1, fitting))
    if cfg.forget == "shots":
        like = torch.zeros_like(like)
    erased = torch.cat([images[like], *[given_shots] * copies])
    everything = proxy.probabilities.to(device)
    p = everything[retained]
    if proxy.whole:
        p = without(p, [g.target for g in givens])
    answers = everything[like].argmax(-1)
    targets = torch.cat([answers, *[shot_labels.to(device)] * copies])
    labels = relabelled(intention, erased.to(shots.dtype) / 255, givens, targets)
    imposed = labels is not None
    if labels is None:
        labels = p.new_full((len(erased), p.shape[1]), 1 / p.shape[1])
    return Lesson(
        torch.cat([images[retained], erased]),
        torch.cat([p, labels.to(p.dtype)]),
        torch.cat([retained.new_zeros(len(p)), retained.new_ones(len(erased))]),
        intention,
        imposed,
        torch.cat(
            [
                conditions[retained],
                conditions[like],
                conditions.new_full((len(shots) * copies,), -1),
            ]
        ),
        targets,
    )


def warn_of_one(cfg: RelearningConfig, shots: Tensor) -> None:
    """Say where a single image (1, C, H, W) is all of D~_e: the model hardly moves then."""
    if cfg.forget == "shots" and len(shots) == 1:
        log.warning(
            "relearning: D~_e is a single image (relearning.forget=shots), which moves little; "
            "with recipe=best give shot=1img too, else take relearning.forget=samples"
        )


def check_samples(intention: Intention, cfg: RelearningConfig, stand_in: str | None) -> None:
    """Refuse an intention that asks D~_r where D~_r says nothing, or is another one in every step.

    Args:
        stand_in: what stands in for D~_r, if not generated samples.

    Raises:
        UserError: naming ``intention.form``.
    """
    if intention.asks_samples and (stand_in is not None or cfg.fresh):
        found = "relearning.fresh=true" if stand_in is None else f"proxy={stand_in}"
        raise UserError(
            "intention.form",
            "neighbours and consensus need proxy=inversion and relearning.fresh=false; "
            f"{found} allows ascent, complementary, second",
        )


def givens_of(problem: Problem, proxy: Proxy | None = None) -> list[Given]:
    """What an intention may look at, for each label of D_e.

    Args:
        proxy: whose samples it may ask; None: none.
    """
    near = None if proxy is None else Neighbours.among(problem, proxy)
    return [
        Given(
            *(problem.original, target, right, problem.seed),
            votes=None if near is None else partial(near.votes, target=target),
        )
        for target, right in problem.pairs
    ]


def relabelled(
    intention: Intention, images: Tensor, givens: Sequence[Given], targets: Tensor
) -> Tensor | None:
    """Soft labels (n, classes) for images (n, C, H, W), each by its own label of D_e.

    Args:
        targets: the label of each image, (n,).
    """
    if len(givens) == 1:
        return intention.relabel(images, givens[0])
    labels: Tensor | None = None
    for given in givens:
        own = targets == given.target
        answers = intention.relabel(images[own], given)
        if answers is None:
            return None
        if labels is None:
            labels = answers.new_zeros(len(images), answers.shape[1])
        labels[own] = answers
    return labels


def without(p: Tensor, targets: Sequence[int]) -> Tensor:
    """Soft labels (n, classes) that give nothing to the targets; the others share it.

    What f_o gives to a class on images of others is enough to learn the class from (Hinton et al.
    2015, Section 3): forgotten as a whole, it would come back.
    """
    others = p * ~among(torch.arange(p.shape[-1], device=p.device), targets)
    return others / others.sum(-1, keepdim=True).clamp_min(1e-30)
