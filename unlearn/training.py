"""Training a classifier from scratch: the original model f_o."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.data import Images
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit, LossModule, ShuffledRows, gpu_layout
from unlearn.engine.precision import forward
from unlearn.engine.seeding import seeded
from unlearn.engine.stages import Stage
from unlearn.engine.store import Entry, state_of
from unlearn.engine.watch import Watch, key_of
from unlearn.models import AnyModel


@dataclass
class TrainingConfig:
    """How the original model is trained; conf/scale/paper.yaml tells where the values are from."""

    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    seed: int = 0


class Trainer(LossModule):
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
        return {"loss": self.loss(forward(self.model, x), batch)}

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Mean loss of logits (B, classes) on the images of ``rows`` (B,)."""
        return F.cross_entropy(logits, self.data.y[rows])

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
    fit: Fit,
) -> list[dict[str, float]]:
    """Train ``model`` in place, leave it in eval mode; returns the history of the loss.

    Raises:
        TrainingDiverged: at a NaN or infinite loss.
    """
    gpu_layout(model.to(device)).train()
    module = Trainer(cfg, model, Images(data.x.to(device), data.y.to(device)), augment)
    history = fit.run(module, module.batches, device)
    model.eval()
    return history


class Training(Stage):
    """The original model, trained from scratch.

    Args:
        model: the architecture's settings.
        augment: the training augmentation.
    """

    name = "training"
    VERSION = 1

    def __init__(
        self,
        cfg: TrainingConfig,
        model: AnyModel,
        augment: Augment,
        watch: Watch | None = None,
    ) -> None:
        self.cfg, self.model, self.augment, self.watch = cfg, model, augment, watch

    def key(self) -> dict[str, Any]:
        own = {"training": asdict(self.cfg), "model": self.model.settings()}
        return {**own, "augment": asdict(self.augment), **key_of(self.watch)}

    def make(self, model: nn.Module, data: Images, device: torch.device, fit: Fit) -> Entry:
        """Train a fresh network."""
        history = train(self.cfg, model, data, self.augment, device, fit)
        remark: dict[str, Any] = {"history": history}
        if fit.watch is not None:
            remark["predictions"] = fit.watch.predictions[self.name]
        return state_of(model), remark
