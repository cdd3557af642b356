"""Training the generator against the original model and the statistics of the shots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytorch_lightning as pl
import torch
from omegaconf import MISSING
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

import unlearn.inversion.losses as L
from unlearn import parallel
from unlearn.augment import Augment
from unlearn.computing import Computing, forward, wide
from unlearn.errors import UserError
from unlearn.inversion.generator import Generator
from unlearn.models.probe import (
    Probe,
    channel_means,
    flat,
    running_norms,
    watched_layers,
)
from unlearn.stage import Stage, fit, generator_on, seeded, seeded_init


@dataclass
class Weights:
    """Weight of each loss; 0 switches it off."""

    ent: float = MISSING
    aug: float = MISSING
    tar: float = MISSING
    bn: float = MISSING
    div: float = MISSING
    div_pixel: float = MISSING
    tv: float = MISSING


@dataclass
class InversionConfig:
    """How the generator is trained; see conf/scale/paper.yaml for the values and their source."""

    steps: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    betas: list[float] = MISSING
    weight_decay: float = MISSING
    schedule: str = MISSING
    z: int = MISSING
    width: int = MISSING
    emphasis: float = MISSING
    weights: Weights = field(default_factory=Weights)
    augmentations: int = MISSING
    tar_copies: int = MISSING
    tar_layers: list[str] | None = None
    squared: bool = MISSING
    div_scaled: bool = MISSING
    tv_reduction: str = MISSING
    grid_every: int = MISSING


def build_generator(
    cfg: InversionConfig, classes: int, shape: tuple[int, int, int], seed: int
) -> Generator:
    """A freshly initialised generator over the classes and y+ (the last condition)."""
    with seeded_init(seed, "generator"):
        return Generator(classes + 1, shape, cfg.width, cfg.z, cfg.emphasis)


class Inversion(Stage):
    """One step: generate, pass the images and then all their augmentations through f_o, descend.

    Args:
        generator: G, trained in place.
        original: f_o in eval mode, its parameters not requiring gradients.
        shots: D_e, (n, C, H, W) in [0, 1].
        target: the label of D_e.
        classes: the number of classes.
        head, penultimate: where the embedding is read, as in ``Probe``.

    Raises:
        UserError: if a batch cannot hold every condition.
    """

    stage = "inversion"

    def __init__(
        self,
        cfg: InversionConfig,
        generator: Generator,
        original: nn.Module,
        shots: Tensor,
        target: int,
        classes: int,
        augment: Augment,
        seed: int,
        head: str | None,
        penultimate: str | None = None,
    ) -> None:
        super().__init__(cfg.steps)
        if cfg.batch_size < classes + 1:
            raise UserError(
                "inversion.batch_size",
                f"{cfg.batch_size} is fewer than the {classes + 1} conditions (classes and y+)",
            )
        self.cfg, self.generator, self.classes, self.augment = cfg, generator, classes, augment
        self.rng = seeded(seed, "inversion", device=shots.device)
        # Outside the module's children: Lightning must neither train nor move f_o.
        self.frozen = {"f_o": original}
        self.bn_layers = tuple(running_norms(original)) if cfg.weights.bn else ()
        self.running = _running(original)
        self.tar_layers = watched_layers(original, cfg.tar_layers) if cfg.weights.tar else ()
        layers = tuple(dict.fromkeys(self.bn_layers + self.tar_layers))
        self.probe = Probe(original, head, penultimate, layers)
        self.labels = torch.cat(
            [torch.arange(classes, device=shots.device), shots.new_tensor([target]).long()]
        )
        self.targets = self._target_statistics(shots)

    @torch.no_grad()
    def _target_statistics(self, shots: Tensor) -> list[Tensor]:
        if not self.tar_layers:
            return []
        copies = torch.cat([shots] * self.cfg.tar_copies)
        with self.probe as probe:
            probe(self.augment(copies, self.rng))
            means = [channel_means(probe.seen.inputs[n]) for n in self.tar_layers]
        self.probe.seen.inputs.clear()
        return means

    def place(self, device: torch.device) -> None:
        self.running = _running(self.frozen["f_o"].to(device))
        self.rng = generator_on(device, self.rng)
        self.labels = self.labels.to(device)
        self.targets = [t.to(device) for t in self.targets]

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Noise (number, z) and conditions (number,), as even over Y+ as ``number`` allows."""
        device = self.labels.device
        z = torch.randn(number, self.cfg.z, device=device, generator=self.rng)
        first = torch.randint(self.classes + 1, (1,), device=device, generator=self.rng)
        y = (torch.arange(number, device=device) + first) % (self.classes + 1)
        return z, y

    def losses(self, batch: Any) -> dict[str, Tensor]:
        w, b = self.cfg.weights, self.cfg.batch_size
        z, y = self.draw(b)
        x = parallel.spread(self.generator, z, y)
        number = self.cfg.augmentations if w.aug else 0
        augmented = [self.augment(x, self.rng) for _ in range(number)]
        views = [parallel.share(v) for v in augmented]
        if views and x.device.type != "cpu":
            # One pass; a CPU's cache likes the augmentations better one by one.
            views = [torch.cat(views)]
        with self.probe as probe:
            logits, embedding = probe(parallel.share(x))
            inputs = dict(probe.seen.inputs)
        own = len(logits)
        logits = torch.cat([logits, *(forward(self.frozen["f_o"], v) for v in views)])
        answers = logits.view(1 + number, own, -1).transpose(0, 1)
        logits = parallel.gather(answers, b).transpose(0, 1)
        embedding = parallel.gather(embedding, b)
        parts = {"ent": L.l_ent(logits[0], self.labels[y])}
        if w.aug:
            p = logits.softmax(-1)
            parts["aug"] = L.l_aug(p[0], p[1:])
        if self.tar_layers:
            # A weighted sum: choosing the rows would wait for a GPU.
            plus = (y == self.classes).to(x.dtype)
            weight = parallel.share(plus / plus.sum())
            means = [parallel.total(weight @ flat(wide(inputs[n]))) for n in self.tar_layers]
            parts["tar"] = L.l_tar(means, self.targets, self.cfg.squared)
        if self.bn_layers:
            seen = [parallel.channel_statistics(inputs[n]) for n in self.bn_layers]
            parts["bn"] = L.l_bn(
                [mean for mean, _ in seen],
                [variance for _, variance in seen],
                [mean for mean, _ in self.running],
                [variance for _, variance in self.running],
                self.cfg.squared,
            )
        if w.div:
            parts["div"] = L.l_div(z, embedding, y, self.classes + 1, self.cfg.div_scaled)
        if w.div_pixel:
            parts["div_pixel"] = L.l_div(z, x.flatten(1), y, self.classes + 1, self.cfg.div_scaled)
        if w.tv:
            parts["tv"] = L.l_tv(x, self.cfg.tv_reduction)
        total = torch.stack([getattr(w, k) * v for k, v in parts.items()]).sum()
        return {"loss": total, **parts}

    def configure_optimizers(self) -> Any:
        c = self.cfg
        optimizer = torch.optim.Adam(
            self.generator.parameters(),
            lr=c.lr,
            betas=(c.betas[0], c.betas[1]),
            weight_decay=c.weight_decay,
            fused=self.fused,
        )
        if c.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, c.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def invert(
    module: Inversion,
    device: torch.device,
    callbacks: Sequence[pl.Callback] = (),
    logger: Logger | None = None,
    progress: bool = False,
    devices: int = 1,
    computing: Computing | None = None,
) -> list[dict[str, float]]:
    """Train the module's generator in place; returns the history of its losses.

    Raises:
        TrainingDiverged: at a NaN or infinite loss.
        UserError: if there are more ``devices`` than images in a batch.
    """
    rows = module.cfg.batch_size
    if devices > rows:
        raise UserError("trainer.devices", f"{devices} are more than inversion.batch_size={rows}")
    module.generator.train()
    history = fit(
        module,
        list(range(module.steps)),
        device,
        callbacks=callbacks,
        logger=logger,
        progress=progress,
        devices=devices,
        computing=computing,
    )
    module.generator.eval()
    return history


def _running(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Running means and variances of the BatchNorm layers, each (channels,)."""
    return [
        (cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var))
        for norm in running_norms(model).values()
    ]
