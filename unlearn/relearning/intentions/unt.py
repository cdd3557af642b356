"""Ours_unt: privacy protection (Section 4.3). D~_e is answered as an untrained network would."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearn.errors import UserError
from unlearn.models.untrained import untrained
from unlearn.relearning.intentions.base import INTENTIONS, Given, Intention

log = logging.getLogger(__name__)


@INTENTIONS.register("unt")
@dataclass
class Unt(Intention):
    """Labels are the softmax of one freshly initialised network, f(.; w_unt), and stay fixed."""

    meaning: ClassVar[str] = "answer as an untrained network"
    name: str = "unt"
    scrub_epochs: int = 2

    @torch.no_grad()
    def relabel(self, images: Tensor, given: Given) -> Tensor | None:
        """The untrained network's softmax (n, classes).

        Raises:
            UserError: if it answers as the trained one does, or with NaN.
        """
        new = given.untrained is None
        if given.untrained is None:
            given.untrained = untrained(given.original, given.seed)
            _check_untrained(given.untrained, given.original, images[:256])
        fresh = given.untrained
        labels = torch.cat([fresh(part).softmax(-1) for part in images.split(256)])
        if new:
            _warn_of_the_label(labels, given)
        return labels


def _check_untrained(fresh: nn.Module, trained: nn.Module, images: Tensor) -> None:
    labels = fresh(images).softmax(-1)
    if not bool(labels.isfinite().all()) or torch.allclose(labels, trained(images).softmax(-1)):
        raise UserError(
            "intention",
            "unt cannot be for this model: with its parameters drawn anew it still answers "
            "as it did, or NaN; std, neg and cor need no untrained network",
        )


def _warn_of_the_label(labels: Tensor, given: Given) -> None:
    """Say where the untrained network gives most images the label itself, by (n, classes).

    Its answers are nearly uniform, and one or two classes lead on all images.
    """
    share = float((labels.argmax(-1) == given.target).float().mean())
    if share > 0.5:
        log.warning(
            "unt: the untrained network, drawn with seed %d, itself gives the label to %.0f %% of "
            "the images, so what learns from it may do so too; another seed draws another one",
            given.seed,
            100 * share,
        )
