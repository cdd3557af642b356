"""From generated samples to the proxy: refinement, then D~_e and D~_r (Section 4.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from unlearn.engine.augment import Augment
from unlearn.engine.fitting import lightning, trainer_on
from unlearn.engine.seeding import seeded
from unlearn.engine.stages import Stage, later, settings_of
from unlearn.engine.statistics import entropy
from unlearn.engine.store import Entry
from unlearn.errors import UserError
from unlearn.filtration.knee import threshold
from unlearn.filtration.mmd import leave_one_out, median_bandwidth, mmd_to
from unlearn.inversion import AnyGenerator
from unlearn.models.probe import Probe
from unlearn.problem import Problem

log = logging.getLogger(__name__)


@dataclass
class FiltrationConfig:
    """How samples are kept and split; conf/scale/paper.yaml tells where the values are from."""

    per_condition: int = 500
    batch_size: int = 512
    rounds: int = 10
    augmentations: int = 4
    t_ent: float = 0.5
    bandwidths: list[float] = field(default_factory=lambda: [0.25])
    threshold: float | None = None
    shot_copies: int = 5
    drop_unmatched: bool = False
    only_plus: bool = False
    own_label: int = 1
    own_label_hard: bool = False
    whole_class: bool = False
    knee: bool = later(True)


@dataclass
class Proxy:
    """The refined samples D~ and their split.

    Attributes:
        images: uint8 (n, C, H, W).
        probabilities: f_o's softmax (n, classes), the soft labels.
        conditions: what each was generated for, (n,) in Y+.
        distances: MMD to D_e (n,); of several labels, to the shots of the one that f_o answers, in
            units of that label's threshold.
        within: leave-one-out MMD of the shots (k,); of one shot its augmented copies' MMD to it.
        target_like: (n,) bool, D~_e; the rest is D~_r, less what ``dropped`` marks.
        dropped: (n,) bool, in neither.
        threshold: t_f, a 0-d tensor.
        bandwidths: of the kernels that measured the distances, (m,).
        whole: whether D_e stands for the whole of its class, a 0-d bool tensor.
    """

    images: Tensor
    probabilities: Tensor
    conditions: Tensor
    distances: Tensor
    within: Tensor
    target_like: Tensor
    dropped: Tensor
    threshold: Tensor
    bandwidths: Tensor
    whole: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def retained(self) -> Tensor:
        """(n,) bool, D~_r."""
        return ~self.target_like & ~self.dropped


class NotSeparable(UserError):
    """Nothing, or everything, was target-like. ``proxy`` holds the samples, for the pictures."""

    def __init__(self, key: str, message: str, proxy: Proxy | None = None) -> None:
        super().__init__(key, message)
        self.proxy = proxy


class Filter(pl.LightningModule):
    """Generates and refines: keeps samples that f_o is sure of, however they are augmented.

    ``predict_step`` takes (z, y) and gives images (uint8), probabilities, embeddings and which
    of them satisfy H < t_ent and an unchanged argmax on the image and on every augmentation.
    """

    def __init__(
        self,
        cfg: FiltrationConfig,
        generator: AnyGenerator,
        probe: Probe,
        augment: Augment,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.cfg, self.augment, self.rng = cfg, augment, rng
        self.generator = generator
        self.probe = probe

    def predict_step(self, batch: tuple[Tensor, Tensor], *_index: Any) -> tuple[Tensor, ...]:
        images = (self.generator(*batch) * 255).round().to(torch.uint8)
        x = images.to(torch.get_default_dtype()) / 255
        logits, embedding = self.probe(x)
        p = logits.softmax(-1)
        ok = entropy(p) < self.cfg.t_ent
        for _ in range(self.cfg.augmentations):
            q = self.probe(self.augment(x, self.rng))[0].softmax(-1)
            ok &= (entropy(q) < self.cfg.t_ent) & (q.argmax(-1) == p.argmax(-1))
        return images, p, embedding, ok


@dataclass
class Draws:
    """Noise (n, z) and conditions (n,), in batches of ``batch_size``."""

    z: Tensor
    y: Tensor
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.y) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.z.split(self.batch_size), self.y.split(self.batch_size), strict=True)


def split(
    cfg: FiltrationConfig,
    distances: Tensor,
    p: Tensor,
    plus: Tensor,
    t_f: Tensor | float,
    targets: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """D~_e and what is in neither part, each (n,) bool.

    Args:
        distances: to D_e (n,).
        p: f_o's softmax (n, classes); target-like samples are also predicted as a target.
        plus: (n,) bool, made for a y+.
        t_f: the threshold; for a whole class there is none.
    """
    like = among(p.argmax(-1), targets)
    if not cfg.whole_class:
        like &= distances < t_f
    dropped = plus & ~like if cfg.drop_unmatched else torch.zeros_like(like)
    if cfg.only_plus:
        return like & plus, dropped | (like & ~plus)
    return like, dropped


def surplus(
    cfg: FiltrationConfig, distances: Tensor, retained: Tensor, conditions: Tensor, target: int
) -> Tensor:
    """(n,) bool: retained samples of D_e's label that are left out for others nearer to D_e.

    With ``own_label_hard`` the ``per_condition`` nearest ones stay, those by the boundary.
    """
    own = (retained & (conditions == target)).nonzero()[:, 0]
    left_out = torch.zeros_like(retained)
    if cfg.own_label_hard:
        left_out[own[distances[own].argsort(stable=True)[cfg.per_condition :]]] = True
    return left_out


def among(labels: Tensor, targets: Sequence[int]) -> Tensor:
    """Which labels (n,) are one of the targets, (n,) bool."""
    found = labels == targets[0]
    for target in targets[1:]:
        found = found | (labels == target)
    return found


class Filtration(Stage):
    """The proxy: the generator's samples, refined, split by their distance to D_e."""

    name = "filtration"
    VERSION = 1

    def __init__(self, cfg: FiltrationConfig) -> None:
        self.cfg = cfg

    def key(self) -> dict[str, Any]:
        return settings_of(self.cfg)

    def make(self, problem: Problem, generator: AnyGenerator) -> Entry:
        """Filtrate. Samples that cannot be split are kept too: ``check_parts`` refuses them.

        Raises:
            NotSeparable: if nothing passes the refinement.
        """
        return refined(self.cfg, problem, generator).tensors(), {}

    def sampler(self, problem: Problem, generator: AnyGenerator) -> Filter:
        """Makes more samples, refined in the same way, for fresh ones while relearning."""
        rng = seeded(problem.seed, "fresh", device=problem.device)
        return Filter(self.cfg, generator, problem.probe(), problem.augment, rng)


def filtrate(cfg: FiltrationConfig, problem: Problem, generator: AnyGenerator) -> Proxy:
    """Sample the generator, refine, and split by distance to D_e.

    Args:
        generator: trained, in eval mode.

    Raises:
        NotSeparable: if nothing passes the refinement, or nothing or everything is target-like.
    """
    proxy = refined(cfg, problem, generator)
    check_parts(proxy, problem.targets)
    return proxy


@torch.no_grad()
def refined(cfg: FiltrationConfig, problem: Problem, generator: AnyGenerator) -> Proxy:
    """As ``filtrate``, whatever the split is.

    Raises:
        NotSeparable: if nothing passes the refinement.
    """
    targets, device = problem.targets, problem.device
    rng = seeded(problem.seed, "filtration", device=device)
    module = Filter(cfg, generator, problem.probe(), problem.augment, rng)
    wanted = torch.full((generator.conditions,), cfg.per_condition)
    wanted[list(targets)] *= cfg.own_label
    with module.probe:
        images, p, embedding, conditions = _sample(module, device, wanted)
        each = [_measured(cfg, problem, module, embedding, t) for t in targets]
    seen = each[0] if len(each) == 1 else relative(each, targets, p.argmax(-1).cpu())
    distances, within, bandwidths, t_f = seen
    conditions = conditions.cpu()
    plus = conditions >= problem.classes
    target_like, dropped = split(cfg, distances, p.cpu(), plus, t_f, targets)
    for target in targets:
        dropped |= surplus(cfg, distances, ~target_like & ~dropped, conditions, target)
    return Proxy(
        images.cpu(),
        p.cpu(),
        conditions,
        distances.float(),
        within.float(),
        target_like,
        dropped,
        torch.tensor(t_f),
        bandwidths,
        torch.tensor(cfg.whole_class),
    )


class Measured(NamedTuple):
    """How far samples are from the shots of a label, as ``Proxy`` has it; t_f is the threshold."""

    distances: Tensor
    within: Tensor
    bandwidths: Tensor
    t_f: float


def _measured(
    cfg: FiltrationConfig, problem: Problem, module: Filter, embedding: Tensor, target: int
) -> Measured:
    """Samples' distances to the shots of a label by their embedding (n, d), and the threshold."""
    shots = problem.shots_of(target)
    distances, within, bandwidths = _distances(cfg, problem, module, embedding, shots)
    t_f = cfg.threshold
    if t_f is None and cfg.knee:
        t_f = threshold(np.asarray(distances), np.asarray(within))[0]
    elif t_f is None:
        t_f = float(within.mean())
    return Measured(distances, within, bandwidths, t_f)


def relative(each: Sequence[Measured], targets: Sequence[int], answers: Tensor) -> Measured:
    """Distances to the shots of several labels as one number, in units of each label's threshold.

    A sample is measured against the shots of the label that f_o answers (n,); if that is none of
    theirs, against the nearest ones.
    """
    thresholds = torch.tensor([m.t_f for m in each]).clamp_min(1e-12)
    shares = torch.stack([m.distances / t for m, t in zip(each, thresholds, strict=True)], 1)
    chosen = shares.argmin(1)
    for i, target in enumerate(targets):
        chosen[answers == target] = i
        log.info("label %d: threshold %.4g", target, each[i].t_f)
    within = torch.cat([m.within / t for m, t in zip(each, thresholds, strict=True)])
    bandwidths = torch.cat([m.bandwidths for m in each])
    return Measured(shares.gather(1, chosen[:, None])[:, 0], within, bandwidths, 1.0)


def _distances(
    cfg: FiltrationConfig, problem: Problem, module: Filter, embedding: Tensor, shots: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """MMD of samples (n,) to D_e by their embedding (n, d); D_e's own spread (k,); bandwidths."""
    probe = module.probe
    own = near = probe(shots)[1]
    factors = torch.tensor(cfg.bandwidths, device=problem.device, dtype=torch.float64)
    if len(shots) == 1:
        # One shot has no spread of its own: its augmented copies stand in for it. They lie
        # around it at their median distance; a narrower kernel would see none of them.
        copies = problem.augment(torch.cat([shots] * cfg.shot_copies), module.rng)
        own = torch.cat([near, probe(copies)[1]])
        factors = factors.clamp_min(1.0)
    bandwidths = median_bandwidth(own.double()) * factors
    distances = mmd_to(embedding.double(), near.double(), bandwidths).cpu()
    if len(shots) > 1:
        within = leave_one_out(own.double(), bandwidths).cpu()
    else:
        # What the samples are measured by too: the distance to the one shot.
        within = mmd_to(own[1:].double(), near.double(), bandwidths).cpu()
    return distances, within, bandwidths.cpu()


def check_parts(proxy: Proxy, targets: Sequence[int]) -> None:
    """Refuse a proxy of which nothing, or everything, is like the shots of a label.

    Raises:
        NotSeparable: with the proxy.
    """
    answers, distances = proxy.probabilities.argmax(-1), proxy.distances
    found = [int(proxy.target_like[answers == t].sum()) for t in targets]
    if all(found) and proxy.retained.any():
        return
    worst = targets[found.index(min(found))]
    called, which = int((answers == worst).sum()), f" ({worst})" if len(targets) > 1 else ""
    raise NotSeparable(
        "filtration",
        f"{'all' if all(found) else 'none'} of {len(distances)} samples are target-like{which} at "
        f"threshold {float(proxy.threshold):.4g} (their distances: {distances.min():.4g} to "
        f"{distances.max():.4g}; the model calls {called} by the label); look at the sample "
        "grid and the knee plot, then set filtration.threshold, or train the generator longer "
        "(inversion.steps)",
        proxy,
    )


def warn_of_reach(proxy: Proxy, targets: Sequence[int]) -> None:
    """Say where most samples of a label itself, not made for y+, are target-like.

    Little is then left in D~_r to hold the rest of that label: right only for a whole class.
    """
    if proxy.whole:
        return
    answers = proxy.probabilities.argmax(-1)
    for target in targets:
        own = (proxy.conditions == target) & (answers == target)
        like, number = int((own & proxy.target_like).sum()), int(own.sum())
        if like > number / 2:
            log.warning(
                "filtration: %d of the %d samples made for label %d itself are target-like; most "
                "of that label may go with D_e. If a part of it shall go, look at the knee plot "
                "and lower filtration.threshold, or take filtration.knee=false",
                *(like, number, target),
            )


def _sample(
    module: Filter, device: torch.device, wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Accepted samples, at most ``wanted`` (conditions,) of each, sorted by condition."""
    cfg, g = module.cfg, module.generator
    missing = wanted.clone()
    kept: list[tuple[Tensor, ...]] = []
    for _ in range(cfg.rounds):
        y = torch.arange(g.conditions).repeat_interleave(missing).to(device)
        if not len(y):
            break
        z = torch.randn(len(y), g.z, device=device, generator=module.rng)
        with lightning():
            seen = trainer_on(device).predict(module, Draws(z, y, cfg.batch_size))
        module.to(device)
        columns = [torch.cat(c).to(device) for c in zip(*(seen or []), strict=True)]
        ok = columns[3]
        kept.append((*(c[ok] for c in columns[:3]), y[ok]))
        missing -= torch.bincount(y[ok].cpu(), minlength=g.conditions)
    images, p, embedding, y = (torch.cat(c) for c in zip(*kept, strict=True))
    if not len(y):
        raise NotSeparable(
            "filtration.t_ent",
            f"no generated sample passed the refinement (entropy below {cfg.t_ent} nats); raise "
            "filtration.t_ent or train the generator longer (inversion.steps)",
        )
    order = y.argsort(stable=True)
    return images[order], p[order], embedding[order], y[order]
