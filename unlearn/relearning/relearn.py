"""Relearning (Section 4.3): adjusting the model on D~_r and the relabelled D~_e."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from unlearn.augment import Augment
from unlearn.computing import Computing
from unlearn.filtration import Filter, Proxy
from unlearn.parallel import spread
from unlearn.relearning.base import Given, Intention
from unlearn.relearning.fresh import Fresh
from unlearn.relearning.lesson import Lesson, RelearningConfig, Source, prepare
from unlearn.stage import Stage, fit, generator_on, seeded
from unlearn.watch import Watch


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
        source: Source,
    ) -> None:
        self.rng = seeded(seed, "relearning", device=lesson.images.device)
        self.batches = Batches(lesson, cfg, intention.scrub_epochs, self.rng)
        super().__init__(len(self.batches))
        self.cfg, self.model, self.augment = cfg, model, augment
        self.lesson, self.intention = lesson, intention
        self.source = source

    def losses(self, batch: Any) -> dict[str, Tensor]:
        rows, scrubbing = batch
        portion = self.source.take(rows)
        logits = spread(self.model, self.augment(portion.images, self.rng))
        retain, forget, labels = portion.retain, portion.forget, portion.labels
        # By weights: to choose rows, the host would have to wait for a GPU.
        shares = {"retain": (l_retain_each(logits, labels, self.cfg.temperature), retain)}
        if scrubbing:
            shares["forget"] = (self._scrub(logits), forget)
        elif self.lesson.imposed:
            # Labels of D~_r may be such that a loss for D~_e has no gradient.
            one_hot = F.one_hot(labels.argmax(-1), labels.shape[1]).to(labels.dtype)
            safe = torch.where(forget[:, None], labels, one_hot)
            shares["forget"] = (self.intention.losses(logits, safe), forget)
        weights = {"retain": 1.0, "forget": self.cfg.forget_weight}
        sums = {k: (each * chosen).sum() for k, (each, chosen) in shares.items()}
        total = torch.stack([weights[k] * v for k, v in sums.items()]).sum() / len(rows)
        parts = {k: v / shares[k][1].sum().clamp_min(1) for k, v in sums.items()}
        return {"loss": total, **parts}

    def _scrub(self, logits: Tensor) -> Tensor:
        labels = torch.randint(
            logits.shape[1], (len(logits),), device=logits.device, generator=self.rng
        )
        return F.cross_entropy(logits, labels, reduction="none")

    def place(self, device: torch.device) -> None:
        self.source.place(device)  # and with it the lesson
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

    Returns:
        The mean over the batch.
    """
    return l_retain_each(logits, p, temperature).mean()


def l_retain_each(logits: Tensor, p: Tensor, temperature: float = 1.0) -> Tensor:
    """``l_retain`` of every row, (B,)."""
    soft = (p.clamp_min(1e-30).log() / temperature).softmax(-1) if temperature != 1 else p
    return temperature**2 * F.cross_entropy(logits / temperature, soft, reduction="none")


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
    sampler: Filter | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Adjust a copy of f_o to the intention.

    Args:
        original: f_o in eval mode, left as it is.
        proxy: the refined and split samples.
        shots: D_e, (k, C, H, W) in [0, 1].
        target: the label of D_e; ``correct`` its right label, where known.
        watch: images whose predictions are counted after every epoch.
        devices: how many share each batch, see ``stage.fit``.
        sampler: makes samples; needed where ``cfg.fresh``.

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
    source: Source = lesson
    if cfg.fresh:
        assert sampler is not None
        source = Fresh(lesson, sampler, proxy, shots, intention, given, model, cfg.candidates)
    module = Relearner(cfg, model, lesson, intention, augment, seed, source)
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
