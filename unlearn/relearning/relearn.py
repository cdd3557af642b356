"""Relearning (Section 4.3): adjusting the model on D~_r and the relabelled D~_e."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import accumulate
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.engine.fitting import Fit, LossModule, annealed, batched, number_of_batches
from unlearn.engine.precision import forward
from unlearn.engine.seeding import seeded
from unlearn.engine.stages import Stage, settings_of
from unlearn.engine.store import Entry, state_of
from unlearn.engine.watch import Watch, key_of
from unlearn.errors import UserError
from unlearn.filtration import Filter, Proxy, among
from unlearn.models.probe import Probe, freeze_batchnorm
from unlearn.problem import Problem
from unlearn.relearning.averaging import TailMean
from unlearn.relearning.fresh import Fresh
from unlearn.relearning.intentions import Intention
from unlearn.relearning.lesson import (
    Data,
    Lesson,
    Portion,
    RelearningConfig,
    givens_of,
    prepare,
    without,
)
from unlearn.relearning.restraint import Held, UntilHeld, augmented_shots, interpolated
from unlearn.relearning.views import adversarial, departure, mixed


class Batches:
    """Shuffled index batches of a lesson, epoch after epoch; D~_e only while it is used."""

    def __init__(
        self, lesson: Lesson, cfg: RelearningConfig, scrub: int, rng: torch.Generator
    ) -> None:
        if cfg.batch_size < 2:
            raise UserError(
                "relearning.batch_size",
                f"{cfg.batch_size} is not a whole number from 2; a BatchNorm that is trained "
                "refuses one image",
            )
        self.size, self.rng, self.cfg, self.scrub = cfg.batch_size, rng, cfg, scrub
        everything = torch.arange(len(lesson.forget), device=lesson.forget.device)
        later = everything if lesson.imposed else everything[~lesson.forget]
        self.epochs = [everything if e < scrub else later for e in range(cfg.epochs)]
        self.ends = list(
            accumulate(number_of_batches(len(rows), self.size) for rows in self.epochs)
        )

    @property
    def scrubbed(self) -> int:
        """Steps until scrubbing ends."""
        return self.ends[min(self.scrub, len(self.ends)) - 1] if self.scrub else 0

    def __len__(self) -> int:
        return self.ends[-1]

    def __iter__(self) -> Iterator[tuple[Tensor, bool]]:
        """Rows and whether they are scrubbed."""
        for epoch, rows in enumerate(self.epochs):
            order = torch.randperm(len(rows), device=rows.device, generator=self.rng)
            for part in batched(rows[order], self.size):
                yield part, epoch < self.scrub


class Relearner(LossModule):
    """One step: soft cross entropy on D~_r and the intention's loss on D~_e, as one mean.

    Args:
        model: learns.
        data: the lesson, or fresh samples in its place.
        whole: whether D_e stands for the whole of its class.
    """

    stage = "relearning"

    def __init__(
        self,
        cfg: RelearningConfig,
        model: nn.Module,
        lesson: Lesson,
        problem: Problem,
        data: Data,
        whole: bool = False,
    ) -> None:
        self.rng = seeded(problem.seed, "relearning", device=lesson.images.device)
        self.batches = Batches(lesson, cfg, lesson.intention.scrub_epochs, self.rng)
        super().__init__(len(self.batches))
        self.cfg, self.model, self.lesson, self.data = cfg, model, lesson, data
        self.problem, self.whole = problem, whole
        self.own_label = cfg.own_label_weight
        if cfg.led_label_weight is not None and lesson.led:
            self.own_label = cfg.led_label_weight
        self.frozen = {"f_o": problem.original}
        # Outside the module's children, as what is frozen.
        self.probes = {
            "student": Probe(model, problem.head, problem.penultimate),
            "teacher": problem.probe(),
        }

    def losses(self, batch: Any) -> dict[str, Tensor]:
        rows, scrubbing = batch
        portion, c = self.data.take(rows), self.cfg
        x = self.problem.augment(portion.images, self.rng)
        if c.mixup:
            x = mixed(x, portion.retain, c.mixup, self.rng)
        if c.adversarial:
            x = self._moved(x, portion, scrubbing)
        logits, embedding = self._pass("student", x)
        retain, forget, labels = portion.retain, portion.forget, portion.labels
        own = among(labels.argmax(-1), self.problem.targets)
        weight = torch.where(own, self.own_label, 1.0) * retain
        labels, anchor = self._taught(x, labels, retain)
        # By weights: to choose rows, the host would have to wait for a GPU.
        shares = {"retain": (l_retain_each(logits, labels, c.temperature), weight)}
        if anchor is not None and embedding is not None:
            shares["anchor"] = (l_anchor_each(embedding, anchor), retain)
        if scrubbing:
            shares["forget"] = (self._scrub(logits), forget)
        elif self.lesson.imposed:
            shares["forget"] = (self._intended(logits, portion), forget)
        weights = {"retain": 1.0, "anchor": c.anchor, "forget": c.forget_weight}
        sums = {k: (each * chosen).sum() for k, (each, chosen) in shares.items()}
        total = torch.stack([weights[k] * v for k, v in sums.items()]).sum() / len(rows)
        parts = {k: v / shares[k][1].sum().clamp_min(1) for k, v in sums.items()}
        return {"loss": total, **parts}

    def _intended(self, logits: Tensor, portion: Portion) -> Tensor:
        """The intention's loss of every row, (b,); it means something in D~_e alone."""
        labels = portion.labels
        # Labels of D~_r may be such that a loss for D~_e has no gradient.
        one_hot = F.one_hot(labels.argmax(-1), labels.shape[1]).to(labels.dtype)
        safe = torch.where(portion.forget[:, None], labels, one_hot)
        return self.lesson.intention.losses(logits, safe)

    def _moved(self, x: Tensor, portion: Portion, scrubbing: bool) -> Tensor:
        """Images of D~_r where the model departs from f_o, of D~_e where the intention fails.

        While D~_e is scrubbed, or nothing is intended for it, its images stay.
        """
        c = self.cfg
        further = c.adversarial_forget if self.lesson.imposed and not scrubbing else 0.0
        sizes = torch.where(portion.retain, c.adversarial, further * portion.forget)

        def gap(moved: Tensor, logits: Tensor) -> Tensor:
            apart = departure(logits, forward(self.frozen["f_o"], moved), c.temperature)
            if not further:
                return apart
            return torch.where(portion.forget, self._intended(logits, portion), apart)

        return adversarial(x, sizes, self.model, gap)

    @torch.no_grad()
    def _taught(self, x: Tensor, labels: Tensor, retain: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the model shall answer on x, and its embedding by f_o where that is an anchor."""
        if self.cfg.teacher == "stored" and not self.cfg.anchor:
            return labels, None
        logits, embedding = self._pass("teacher", x)
        if self.cfg.teacher == "view":
            p = logits.softmax(-1)
            p = without(p, self.problem.targets) if self.whole else p
            labels = torch.where(retain[:, None], p.to(labels.dtype), labels)
        return labels, embedding

    def _pass(self, who: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and the embedding where it is needed."""
        probe = self.probes[who]
        if not self.cfg.anchor:
            return forward(probe.model, x), None
        with probe:
            return probe(x)

    def _scrub(self, logits: Tensor) -> Tensor:
        labels = torch.randint(
            logits.shape[1], (len(logits),), device=logits.device, generator=self.rng
        )
        return F.cross_entropy(logits, labels, reduction="none")

    def configure_optimizers(self) -> Any:
        c = self.cfg
        optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=c.lr,
            momentum=c.momentum,
            weight_decay=c.weight_decay,
            fused=self.fused,
        )
        return annealed(optimizer, len(self.batches)) if c.schedule == "cosine" else optimizer


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


def l_anchor_each(embedding: Tensor, anchor: Tensor) -> Tensor:
    """Squared distance of embeddings (B, d) to f_o's, in units of f_o's mean squared norm: (B,)."""
    scale = anchor.square().sum(-1).mean().clamp_min(1e-12)
    return (embedding - anchor).square().sum(-1) / scale


def l_retain_each(logits: Tensor, p: Tensor, temperature: float = 1.0) -> Tensor:
    """``l_retain`` of every row, (B,)."""
    soft = (p.clamp_min(1e-30).log() / temperature).softmax(-1) if temperature != 1 else p
    return temperature**2 * F.cross_entropy(logits / temperature, soft, reduction="none")


class Relearning(Stage):
    """The unlearned model: a copy of f_o, adjusted to the intention."""

    name = "relearning"
    VERSION = 2

    def __init__(
        self,
        cfg: RelearningConfig,
        intention: Intention,
        corrects: tuple[int, ...] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.cfg, self.intention, self.corrects, self.watch = cfg, intention, corrects, watch

    def key(self) -> dict[str, Any]:
        own = {"relearning": settings_of(self.cfg), "intention": asdict(self.intention)}
        several = None if self.corrects is None else list(self.corrects)
        correct = several[0] if several is not None and len(several) == 1 else several
        return {**own, "correct": correct, **key_of(self.watch)}

    def make(self, problem: Problem, proxy: Proxy, sampler: Filter | None, fit: Fit) -> Entry:
        """Relearn.

        Args:
            proxy: the refined and split samples.
            sampler: makes more samples, where ``fresh`` ones are wanted; None where it cannot be.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
        """
        cfg = self.cfg
        givens = givens_of(problem, proxy if self.intention.asks_samples else None)
        lesson = prepare(cfg, proxy, problem.shots, self.intention, givens, problem.labels)
        model = problem.student()
        if cfg.batchnorm == "frozen":
            freeze_batchnorm(model)
        data: Data = lesson
        if cfg.fresh and sampler is not None:
            if len(givens) > 1:
                raise UserError("relearning.fresh", "true takes shots of one label; use false")
            data = Fresh(lesson, sampler, givens[0], problem, proxy, model, cfg.candidates)
        module = Relearner(cfg, model, lesson, problem, data, bool(proxy.whole))
        ends: list[pl.Callback] = []
        if cfg.average is not None:
            ends.append(TailMean(cfg.average))
        if cfg.stop is not None:
            held = Held(self.intention, givens, *augmented_shots(problem))
            ends.append(UntilHeld(held, cfg.stop, module.batches.scrubbed))
        history = fit.run(module, module.batches, problem.device, cfg.clip, ends)
        remark: dict[str, Any] = {"history": history}
        if cfg.interpolate is not None:
            erased = lesson.images[lesson.forget].to(problem.shots.dtype) / 255
            shots, labels = augmented_shots(problem)
            images = torch.cat([shots, erased])
            held = Held(self.intention, givens, images, torch.cat([labels, lesson.targets]))
            remark["step"] = interpolated(problem.original, model, held, cfg.interpolate)
        if fit.watch is not None:
            remark["predictions"] = fit.watch.predictions[self.name]
        return state_of(model), remark
