"""Relearning (Section 4.3): adjusting the model on D~_r and the relabelled D~_e."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import MISSING
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from unlearn.augment import Augment
from unlearn.computing import Computing
from unlearn.filtration import Proxy
from unlearn.parallel import spread
from unlearn.relearning.base import Given, Intention, soft_cross_entropy
from unlearn.stage import Stage, fit, generator_on, seeded
from unlearn.watch import Watch


@dataclass
class RelearningConfig:
    """How the model is adjusted; see conf/scale/paper.yaml."""

    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    clip: float | None = None
    batchnorm: str = MISSING
    temperature: float = MISSING
    shot_copies: int = MISSING
    forget_weight: float = MISSING
    negative: str = MISSING


@dataclass
class Lesson:
    """The relearning data on one device.

    Attributes:
        images: uint8 (n, C, H, W).
        labels: soft labels (n, classes): f_o's on D~_r, the intention's on D~_e.
        forget: (n,) bool, D~_e.
        imposed: whether the intention says anything on D~_e after scrubbing.
    """

    images: Tensor
    labels: Tensor
    forget: Tensor
    imposed: bool

    def on(self, device: torch.device) -> Lesson:
        """The same on another device."""
        return Lesson(
            self.images.to(device), self.labels.to(device), self.forget.to(device), self.imposed
        )


def prepare(
    cfg: RelearningConfig, proxy: Proxy, shots: Tensor, intention: Intention, given: Given
) -> Lesson:
    """D~_r with f_o's soft labels and D~_e, with ``shot_copies`` of every shot, relabelled."""
    device = shots.device
    retained, like = proxy.retained.to(device), proxy.target_like.to(device)
    images = proxy.images.to(device)
    given_shots = (shots * 255).round().to(torch.uint8)
    erased = torch.cat([images[like], *[given_shots] * cfg.shot_copies])
    p = proxy.probabilities.to(device)[retained]
    labels = intention.relabel(erased.to(shots.dtype) / 255, given)
    imposed = labels is not None
    if labels is None:
        labels = p.new_full((len(erased), p.shape[1]), 1 / p.shape[1])
    return Lesson(
        torch.cat([images[retained], erased]),
        torch.cat([p, labels.to(p.dtype)]),
        torch.cat([retained.new_zeros(len(p)), retained.new_ones(len(erased))]),
        imposed,
    )


class Batches:
    """Shuffled index batches of a lesson, epoch after epoch; D~_e only while it is used."""

    def __init__(
        self, lesson: Lesson, cfg: RelearningConfig, scrub: int, rng: torch.Generator
    ) -> None:
        self.size, self.rng, self.cfg, self.scrub = cfg.batch_size, rng, cfg, scrub
        everything = torch.arange(len(lesson.forget), device=lesson.forget.device)
        later = everything if lesson.imposed else everything[~lesson.forget]
        self.epochs = [everything if e < scrub else later for e in range(cfg.epochs)]
        self.ends = list(accumulate(-(-len(rows) // self.size) for rows in self.epochs))

    def __len__(self) -> int:
        return self.ends[-1]

    def __iter__(self) -> Iterator[tuple[Tensor, bool]]:
        """Rows and whether they are scrubbed."""
        for epoch, rows in enumerate(self.epochs):
            order = torch.randperm(len(rows), device=rows.device, generator=self.rng)
            for part in rows[order].split(self.size):
                yield part, epoch < self.scrub


class Relearner(Stage):
    """One step: soft cross entropy on D~_r and the intention's loss on D~_e, as one mean."""

    stage = "relearning"

    def __init__(
        self,
        cfg: RelearningConfig,
        model: nn.Module,
        lesson: Lesson,
        intention: Intention,
        augment: Augment,
        seed: int,
    ) -> None:
        self.rng = seeded(seed, "relearning", device=lesson.images.device)
        self.batches = Batches(lesson, cfg, intention.scrub_epochs, self.rng)
        super().__init__(len(self.batches))
        self.cfg, self.model, self.augment = cfg, model, augment
        self.lesson, self.intention = lesson, intention

    def losses(self, batch: Any) -> dict[str, Tensor]:
        rows, scrubbing = batch
        x = self.lesson.images[rows].to(torch.get_default_dtype()) / 255
        logits = spread(self.model, self.augment(x, self.rng))
        forget, labels = self.lesson.forget[rows], self.lesson.labels[rows]
        kept, erased = logits[~forget], logits[forget]
        parts = {}
        if len(kept):
            parts["retain"] = l_retain(kept, labels[~forget], self.cfg.temperature)
        if len(erased) and scrubbing:
            parts["forget"] = self._scrub(erased)
        elif len(erased) and self.lesson.imposed:
            parts["forget"] = self.intention.loss(erased, labels[forget])
        share = {"retain": len(kept), "forget": len(erased) * self.cfg.forget_weight}
        total = torch.stack([share[k] / len(rows) * v for k, v in parts.items()]).sum()
        return {"loss": total, **parts}

    def _scrub(self, logits: Tensor) -> Tensor:
        labels = torch.randint(
            logits.shape[1], (len(logits),), device=logits.device, generator=self.rng
        )
        return nn.functional.cross_entropy(logits, labels)

    def place(self, device: torch.device) -> None:
        self.lesson = self.lesson.on(device)
        self.rng = self.batches.rng = generator_on(device, self.rng)
        self.batches.epochs = [rows.to(device) for rows in self.batches.epochs]

    def configure_optimizers(self) -> Any:
        c = self.cfg
        return torch.optim.SGD(
            self.model.parameters(),
            lr=c.lr,
            momentum=c.momentum,
            weight_decay=c.weight_decay,
            fused=self.fused,
        )


def l_retain(logits: Tensor, p: Tensor, temperature: float = 1.0) -> Tensor:
    """Distillation on D~_r: T^2 times the cross entropy of softened answers (Hinton et al. 2015).

    Args:
        logits: the model's (B, classes).
        p: f_o's softmax (B, classes); softening log p equals softening f_o's logits.
        temperature: T; 1 is the paper's soft-label cross entropy.
    """
    soft = (p.clamp_min(1e-30).log() / temperature).softmax(-1) if temperature != 1 else p
    return temperature**2 * soft_cross_entropy(logits / temperature, soft)


def freeze_batchnorm(model: nn.Module) -> None:
    """Keep the running statistics as they are; the affine parameters go on learning."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def relearn(
    cfg: RelearningConfig,
    original: nn.Module,
    proxy: Proxy,
    shots: Tensor,
    intention: Intention,
    target: int,
    correct: int | None,
    augment: Augment,
    seed: int,
    callbacks: Sequence[pl.Callback] = (),
    logger: Logger | None = None,
    progress: bool = False,
    watch: Watch | None = None,
    devices: int = 1,
    computing: Computing | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Adjust a copy of f_o to the intention.

    Args:
        original: f_o in eval mode, left as it is.
        proxy: the refined and split samples.
        shots: D_e, (k, C, H, W) in [0, 1].
        target: the label of D_e; ``correct`` its right label, where known.
        watch: images whose predictions are counted after every epoch.
        devices: how many share each batch, see ``stage.fit``.

    Returns:
        The unlearned model in eval mode, and the history of losses.

    Raises:
        TrainingDiverged: at a NaN or infinite loss.
    """
    given = Given(original, target, correct, seed)
    lesson = prepare(cfg, proxy, shots, intention, given)
    model = copy.deepcopy(original).train().requires_grad_(True)
    if cfg.batchnorm == "frozen":
        freeze_batchnorm(model)
    module = Relearner(cfg, model, lesson, intention, augment, seed)
    history = fit(
        module,
        module.batches,
        shots.device,
        clip=cfg.clip,
        callbacks=callbacks,
        logger=logger,
        progress=progress,
        watch=watch,
        devices=devices,
        computing=computing,
    )
    return model.eval(), history
