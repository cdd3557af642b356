"""What an intention is: the answer that the unlearned model shall give on D~_e (Eq. 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.errors import UserError
from unlearn.registry import Registry

AGREEMENT = 0.75  # share of labels that is most of them


@dataclass
class Given:
    """What an intention may look at.

    Attributes:
        original: f_o, in eval mode.
        target: the label of D_e.
        correct: the correct labels of D~_e where known: one label for all, else None.
        seed: for whatever it draws.
        untrained: the network of ``unt``, once it has been made.
        votes: soft labels (n, classes) of images (n, C, H, W), by the samples of D~_r most like
            them; None where there are none.
    """

    original: nn.Module
    target: int
    correct: int | None
    seed: int
    untrained: nn.Module | None = None
    votes: Callable[[Tensor], Tensor] | None = None


@dataclass
class Intention(ABC):
    """One intention: relabels D~_e once and says what is lost by not answering so.

    Attributes:
        needs_correct_label: whether it teaches the right label.
        meaning: what the model shall do on D_e, in words.
        on_small_networks: what it does not do there as it does in the paper, in words.
        scrub_epochs: first epochs in which D~_e is learnt with random labels instead.
    """

    needs_correct_label: ClassVar[bool] = False
    meaning: ClassVar[str] = ""
    on_small_networks: ClassVar[str] = ""
    name: str = ""
    scrub_epochs: int = 0

    def check(self, target: int, correct: int | None) -> None:
        """Refuse settings, or labels of the shots, that cannot be.

        Raises:
            UserError: naming the setting or argument and what it allows.
        """
        self.check_settings()
        if self.needs_correct_label and (correct is None or correct == target):
            raise UserError(
                "correct_labels",
                f"intention {self.name} needs the right labels, other than the wrong one "
                f"({target})",
            )

    def check_settings(self) -> None:
        """Refuse settings out of range.

        Raises:
            UserError: naming the setting and what it allows.
        """
        if self.scrub_epochs < 0:
            raise UserError("intention.scrub_epochs", f"{self.scrub_epochs} is not a number from 0")

    def for_oracle(self) -> Self:
        """As the oracle learns it, from scratch: no scrubbing."""
        return replace(self, scrub_epochs=0)

    @property
    def asks_samples(self) -> bool:
        """Whether it needs ``Given.votes``, and so generated samples."""
        return False

    @abstractmethod
    def relabel(self, images: Tensor, given: Given) -> Tensor | None:
        """I~_e: soft labels (n, classes) for images (n, C, H, W); None leaves D~_e out."""

    def held(self, logits: Tensor, given: Given) -> Tensor:
        """(B,) bool: whether answers (B, classes) are as intended; here, not D_e's label."""
        return logits.argmax(-1) != given.target

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss on D~_e of logits (B, classes) under the labels of ``relabel``."""
        return soft_cross_entropy(logits, labels)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``loss`` of every row by itself, (B,): which ones count is known on the device alone."""
        return torch.vmap(lambda row, label: self.loss(row[None], label[None]))(logits, labels)


INTENTIONS: Registry[type[Intention]] = Registry("intention")


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy under soft labels (B, classes), in nats, mean over the batch."""
    return F.cross_entropy(logits, labels)
