"""Ours_neg: stop the wrong label without knowing the right one (Section 4.3)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from unlearn.errors import UserError, choices
from unlearn.relearning.intentions.base import (
    AGREEMENT,
    INTENTIONS,
    Given,
    Intention,
    soft_cross_entropy,
)

FORMS = ("ascent", "complementary", "second", "neighbours", "consensus")
ORACLE_FORMS = ("ascent", "complementary")
ASKING = ("neighbours", "consensus")  # ask samples of D~_r

log = logging.getLogger(__name__)


@INTENTIONS.register("neg")
@dataclass
class Neg(Intention):
    """The target label shall not be answered.

    Attributes:
        form: ``ascent`` raises the target label's cross entropy up to ``cutoff``;
            ``complementary`` minimises -log(1 - p), the negative learning of the literature
            (Kim et al. 2019, NLNL); ``second`` learns f_o's own answer with the target label
            left out and the rest renormalised; ``neighbours`` what the samples of D~_r are called
            that are most like the image in f_o's layers (``unlearn.relearning.neighbours``), where
            they agree, else as ``second``; ``consensus`` likewise, but what one image leaves open
            the others decide.
        cutoff: where the ascent ends, in nats.
        oracle_form: the form from which the oracle learns it: ``ascent`` or ``complementary``.
            From scratch the paper's loss has to go on where p is already small, as -log(1 - p)
            does.
    """

    meaning: ClassVar[str] = "answer anything but the label"
    on_small_networks: ClassVar[str] = (
        "a small network seldom answers the right label in its place, as the paper's does; "
        "scale=small shows that"
    )
    name: str = "neg"
    form: str = "ascent"
    cutoff: float = 10.0
    oracle_form: str = "complementary"

    def check_settings(self) -> None:
        super().check_settings()
        if self.form not in FORMS:
            raise choices("intention.form", self.form, FORMS)
        if self.oracle_form not in ORACLE_FORMS:
            raise choices("intention.oracle_form", self.oracle_form, ORACLE_FORMS)
        if not self.cutoff > 0:
            raise UserError("intention.cutoff", f"{self.cutoff!r} is not above 0")

    def for_oracle(self) -> Self:
        return replace(super().for_oracle(), form=self.oracle_form)

    @property
    def asks_samples(self) -> bool:
        return self.form in ASKING

    @torch.no_grad()
    def relabel(self, images: Tensor, given: Given) -> Tensor | None:
        if self.asks_samples:
            if given.votes is None:
                raise UserError("intention.form", f"{self.form} needs samples of D~_r to ask")
            votes = given.votes(images)
            if agreed(votes, given.target):
                return shared(votes) if self.form == "consensus" else votes
        logits = torch.cat([given.original(part) for part in images.split(256)])
        if self.form == "second" or self.asks_samples:
            logits[:, given.target] = -torch.inf
            return logits.softmax(-1)
        wrong = torch.full((len(images),), given.target, device=images.device)
        return F.one_hot(wrong, logits.shape[1]).to(logits.dtype)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.form == "ascent":
            return l_ascent(logits, labels, self.cutoff)
        if self.form == "complementary":
            return l_complementary(logits, labels)
        return soft_cross_entropy(logits, labels)


def agreed(votes: Tensor, target: int) -> bool:
    """Whether sharpened votes (n, classes) give most to one answer; says so.

    Wrongly labelled images have one right label, and agree. Images that are what they are called
    look like different things besides, and no other answer is the right one.
    """
    share, most = votes.mean(0).max(0)
    led = float(share) >= AGREEMENT
    log.info(
        "label %d: %.0f %% of the sharpened votes of the samples most like its images are for %d%s",
        *(target, 100 * float(share), int(most)),
        "" if led else "; too few agree, so f_o's own second answers are learnt",
    )
    return led


def shared(votes: Tensor) -> Tensor:
    """Votes (n, classes) times their mean, each row's sum 1: their posterior, where what most
    images are said to be is expected of each (a step of Saerens et al. 2002).

    Example:
        >>> shared(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]))[2]
        tensor([0.6471, 0.3529])
    """
    posterior = votes * votes.mean(0)
    return posterior / posterior.sum(-1, keepdim=True)


def l_ascent(logits: Tensor, wrong: Tensor, cutoff: float) -> Tensor:
    """-min(-log p_wrong, cutoff), mean over the batch; ``wrong`` is one-hot (B, classes)."""
    nll = -(logits.log_softmax(-1) * wrong).sum(-1)
    return -nll.clamp_max(cutoff).mean()


def l_complementary(logits: Tensor, wrong: Tensor) -> Tensor:
    """-log(1 - p_wrong), mean over the batch; exact for p near 1.

    log(1 - p_w) is the log-sum of the other classes' probabilities.
    """
    others = logits.masked_fill(wrong.bool(), -torch.inf)
    return (logits.logsumexp(-1) - others.logsumexp(-1)).mean()
