"""The mean of the last steps' weights in place of the last ones."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch.optim.swa_utils import AveragedModel


class TailMean(pl.Callback):
    """Leaves a model with the mean of the weights that it had in its last steps.

    The mean of a training's weights lies in a flatter place than the last of them, and answers
    unseen images better (Izmailov et al. 2018, SWA). Running statistics are the last ones.

    Args:
        share: of all steps, whose weights are averaged, in (0, 1]; of one step at least.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._mean: AveragedModel | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        steps = trainer.max_steps
        if trainer.global_step <= steps - max(1, round(self.share * steps)):
            return
        model = pl_module.get_submodule("model")
        if self._mean is None:
            self._mean = AveragedModel(model)
        self._mean.update_parameters(model)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._mean is not None:  # none where training has ended early
            pl_module.get_submodule("model").load_state_dict(self._mean.module.state_dict())
