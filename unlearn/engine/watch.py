"""What a model answers on chosen images while it is being trained (Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytorch_lightning as pl
from torch import Tensor, nn

from unlearn.engine.predict import predict
from unlearn.engine.store import fingerprint


@dataclass
class Watch:
    """Images on which a stage's predictions are counted at the end of every epoch.

    Attributes:
        images: uint8 (M, C, H, W).
        classes: how many classes there are.
        predictions: for each stage watched last, its ``epoch`` numbers and as many ``counts``,
            each of ``classes`` whole numbers that sum to M.
    """

    images: Tensor
    classes: int
    predictions: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def count(self, model: nn.Module) -> list[int]:
        """Predictions in each class; the model's modes and the random state stay as they are."""
        answers = predict(model, self.images)
        return cast(list[int], answers.bincount(minlength=self.classes).tolist())


class Counter(pl.Callback):
    """Counts a stage's predictions at the end of every epoch, into ``stage.predictions``.

    Args:
        watch: what is looked at.
        ends: the number of steps done when each epoch ends.
    """

    def __init__(self, watch: Watch, ends: Sequence[int]) -> None:
        self.watch, self.ends = watch, ends

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        if trainer.global_step not in self.ends:
            return
        seen = cast(dict[str, list[Any]], pl_module.predictions)
        seen["epoch"].append(float(self.ends.index(trainer.global_step) + 1))
        seen["counts"].append(self.watch.count(cast(nn.Module, pl_module.model)))


def key_of(watch: Watch | None) -> dict[str, str]:
    """What a watch adds to a stage's store key: nothing if there is none."""
    return {} if watch is None else {"watch": fingerprint({"images": watch.images})}
