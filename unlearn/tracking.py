"""Live tracking of a run beside its history.csv."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger

from unlearn.errors import UserError
from unlearn.settings import Config


@contextmanager
def tracker(cfg: Config, folder: Path) -> Iterator[Logger | None]:
    """The chosen Lightning logger, closed after; None for ``csv``, which is always written.

    Raises:
        UserError: if wandb is chosen without a key and not offline.
    """
    if cfg.logger != "wandb":
        yield None
        return
    offline = os.environ.get("WANDB_MODE") == "offline"
    if not offline and not wandb.api.api_key:
        raise UserError(
            "logger", "wandb needs a key (wandb login) or WANDB_MODE=offline; csv needs neither"
        )
    name = f"{cfg.scenario.name}-{cfg.intention.name}-{cfg.shot}-seed{cfg.seed}"
    logger = WandbLogger(
        project="few-shot-unlearning",
        name=name,
        save_dir=str(folder),
        group=cfg.scenario.name,
        job_type="ours",
        config=asdict(cfg),
        offline=offline,
    )
    try:
        yield logger
    finally:
        wandb.finish()
