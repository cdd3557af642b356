"""The library call: repair a model with a few images. The command line uses it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from unlearn.augment import Augment
from unlearn.relearning import Intention
from unlearn.settings import intention_named
from unlearn.settings import settings as load_settings
from unlearn.unlearner import Result, Settings, few_shot_unlearn
from unlearn.watch import Watch


def forget(
    model: nn.Module,
    shots: Tensor,
    labels: Tensor,
    intention: str | Intention = "neg",
    correct_labels: Tensor | None = None,
    *,
    augment: Augment | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    penultimate: str | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    store: Path | str | None = None,
    callbacks: Sequence[pl.Callback] = (),
    logger: Logger | None = None,
    progress: bool = False,
    watch: Watch | None = None,
    devices: int = 1,
) -> Result:
    """Unlearn what a few images show, without training data (Sections 3 and 4).

    Args:
        model: any classifier, (B, C, H, W) -> logits (B, classes); left as it is. Everything runs
            on the device of its parameters.
        shots: the given part of D_e, (k, C, H, W) in [0, 1]; H and W multiples of 4.
        labels: what the model answers on them and shall not, (k,), all the same.
        intention: ``std``, ``unt``, ``neg``, ``cor``, or one with settings of its own.
        correct_labels: for ``cor``, the right labels (k,), all the same.
        augment: what the model was trained to withstand, if other than the settings say.
        settings: from ``unlearn.settings``; the paper's by default.
        seed: of everything random.
        penultimate: the layer whose output is the embedding; needed only if the model does not
            end in a linear layer.
        normalize: per-channel mean and standard deviation, if the model expects images so
            normalised.
        store: a folder that keeps finished stages; the same call goes on from there.
        callbacks, logger: for Lightning, during inversion and relearning.
        progress: show the stages' progress on standard error.
        watch: images whose predictions are counted after every epoch of relearning, for
            ``Result.predictions``.
        devices: how many processes share each batch of inversion and relearning: on the CPU, or
            on as many GPUs, from the model's on. The losses stay the same but for rounding. Each
            process imports the caller's script anew: keep its work under
            ``if __name__ == "__main__":``.

    Raises:
        UserError: if an argument cannot be.
        NotSeparable: if nothing, or everything, generated is like the shots.
        TrainingDiverged: at a NaN or infinite loss.
    """
    chosen = settings or load_settings()
    if augment is not None:
        chosen = replace(chosen, augment=augment)
    if isinstance(intention, str):
        intention = intention_named(intention, chosen.scale)
    return few_shot_unlearn(
        model,
        shots,
        labels,
        intention,
        correct_labels,
        chosen,
        seed=seed,
        penultimate=penultimate,
        normalize=normalize,
        store=store,
        callbacks=callbacks,
        logger=logger,
        progress=progress,
        watch=watch,
        devices=devices,
    )
