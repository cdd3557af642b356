"""Training a classifier from scratch: the original model f_o."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import MISSING
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from unlearn.augment import Augment
from unlearn.computing import Computing
from unlearn.data import Images
from unlearn.parallel import spread
from unlearn.stage import Stage, fit, generator_on, gpu_layout, seeded
from unlearn.trainer import check_devices
from unlearn.watch import Watch


@dataclass
class TrainingConfig:
    """How the original model is trained; see conf/scale/paper.yaml."""

    epochs: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    schedule: str = MISSING
    seed: int = MISSING


class ShuffledRows:
    """Index batches of a data set that lies on the device, reshuffled every epoch."""

    def __init__(self, rows: int, size: int, epochs: int, rng: torch.Generator) -> None:
        self.rows, self.size, self.rng = rows, size, rng
        steps = -(-rows // size)
        self.ends = [steps * (epoch + 1) for epoch in range(epochs)]

    def __len__(self) -> int:
        return self.ends[-1]

    def __iter__(self) -> Iterator[Tensor]:
        for _ in self.ends:
            order = torch.randperm(self.rows, device=self.rng.device, generator=self.rng)
            yield from order.split(self.size)


class Training(Stage):
    """Cross entropy on augmented images; the whole data set lies on the device as uint8."""

    stage = "training"

    def __init__(
        self, cfg: TrainingConfig, model: nn.Module, data: Images, augment: Augment
    ) -> None:
        self.rng = seeded(cfg.seed, "training", device=data.x.device)
        self.batches = ShuffledRows(len(data), cfg.batch_size, cfg.epochs, self.rng)
        super().__init__(len(self.batches))
        self.cfg, self.model, self.data, self.augment = cfg, model, data, augment

    def losses(self, batch: Any) -> dict[str, Tensor]:
        x = self.augment(self.data.x.index_select(0, batch), self.rng)
        return {"loss": self.loss(spread(self.model, x), batch)}

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Mean loss of logits (B, classes) on the images of ``rows`` (B,)."""
        return F.cross_entropy(logits, self.data.y[rows])

    def place(self, device: torch.device) -> None:
        self.data = Images(self.data.x.to(device), self.data.y.to(device))
        self.rng = self.batches.rng = generator_on(device, self.rng)

    def configure_optimizers(self) -> Any:
        c = self.cfg
        optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=c.lr,
            momentum=c.momentum,
            weight_decay=c.weight_decay,
            fused=self.fused,
        )
        if c.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, c.lr, total_steps=self.steps, cycle_momentum=False
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def train(
    cfg: TrainingConfig,
    model: nn.Module,
    data: Images,
    augment: Augment,
    device: torch.device,
    callbacks: Sequence[pl.Callback] = (),
    logger: Logger | None = None,
    progress: bool = False,
    watch: Watch | None = None,
    devices: int = 1,
    computing: Computing | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place, leave it in eval mode; returns the history of the loss.

    Raises:
        TrainingDiverged: at a NaN or infinite loss.
        UserError: if there are not so many devices.
    """
    check_devices(devices, device)
    gpu_layout(model.to(device)).train()
    module = Training(cfg, model, Images(data.x.to(device), data.y.to(device)), augment)
    history = fit(
        module,
        module.batches,
        device,
        callbacks=callbacks,
        logger=logger,
        progress=progress,
        watch=watch,
        devices=devices,
        computing=computing,
    )
    model.eval()
    return history
