"""Lightning trainers that write nothing by themselves: on one device, or in several processes."""

from __future__ import annotations

import io
import logging
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from unlearn.errors import UserError

# What launchers leave in the environment, what Lightning leaves there for the next fit, and what
# keeps torch's C++ part quiet.
ENVIRONMENT = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "TORCH_CPP_LOG_LEVEL",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's advice about loggers, checkpoints and workers does not fit these loops."""
    names = (
        "pytorch_lightning",
        "pytorch_lightning.utilities.rank_zero",
        "lightning",
        "lightning_fabric",
    )
    loggers = [logging.getLogger(n) for n in names]
    levels = [x.level for x in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def check_devices(devices: int, device: torch.device) -> None:
    """Refuse more devices than there are. Of CPU processes any number goes; cores are the limit.

    Raises:
        UserError: naming ``trainer.devices``.
    """
    if devices == 1:
        return
    if device.type not in ("cpu", "cuda"):
        raise UserError("trainer.devices", f"{devices}: on {device.type} only 1 can be")
    if device.type == "cuda":
        here = torch.cuda.device_count() - (device.index or 0)
        if devices > here:
            raise UserError(
                "trainer.devices", f"{devices} are more than the GPUs here from {device}: {here}"
            )
    if hasattr(sys, "ps1"):
        raise UserError("trainer.devices", f"{devices}: an interactive session allows only 1")


def trainer_on(device: torch.device, devices: int = 1, **settings: Any) -> pl.Trainer:
    """A trainer for one device, or for ``devices`` processes: on the CPU, or on as many GPUs."""
    first = device.index or 0
    if devices > 1:
        settings |= {"strategy": Processes(devices), "use_distributed_sampler": False}
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=list(range(first, first + devices)) if device.type == "cuda" else devices,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, **settings},
    )


class Processes(DDPStrategy):
    """DDP in processes that are spawned for one fit; the caller's process only waits.

    Each gets an equal part of the threads. A cluster's or launcher's own ranks are not heeded.
    """

    def __init__(self, number: int) -> None:
        super().__init__(
            cluster_environment=LightningEnvironment(),
            start_method="spawn",
            broadcast_buffers=False,
            # A given model may have parameters that its answers do not depend on.
            find_unused_parameters=True,
        )
        self.threads = max(1, torch.get_num_threads() // number)
        self.parent = os.getpid()

    def setup_environment(self) -> None:
        """In each process, before all else."""
        threading.Thread(target=_end_with, args=(self.parent,), daemon=True).start()
        torch.set_num_threads(self.threads)
        self.quiet = quiet_lightning()
        self.quiet.__enter__()
        super().setup_environment()


def _end_with(parent: int) -> None:
    """End this process when ``parent``, which started it, is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _rebuild(device: str, state: bytes) -> torch.Generator:
    values = torch.frombuffer(bytearray(state), dtype=torch.uint8)
    return torch.Generator(device).set_state(values)


def _reduce(rng: torch.Generator) -> Any:
    return _rebuild, (str(rng.device), rng.get_state().numpy().tobytes())


# torch's own way passes the state as a tensor, whose memory is gone before the process has it.
ForkingPickler.register(torch.Generator, _reduce)


class _Shape(pickle.Pickler):
    """Pickles all but the tensors' values."""

    def persistent_id(self, value: Any) -> str | None:
        return "tensor" if isinstance(value, torch.Tensor) else None


def fit_in_processes(trainer: pl.Trainer, module: pl.LightningModule, batches: Any) -> None:
    """``trainer.fit`` with a strategy of ``Processes``; none of them outlives the call.

    The weights of rank 0 and the module's extra state come back.

    Raises:
        UserError: if the module or a callback cannot be sent to another process.
    """
    try:
        _Shape(io.BytesIO()).dump([module, trainer.callbacks, trainer.loggers])  # type: ignore[attr-defined]
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            "trainer.devices", f"more than 1 need a model and callbacks that pickle takes: {error}"
        ) from error
    kept = {name: os.environ.pop(name) for name in ENVIRONMENT if name in os.environ}
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    try:
        trainer.fit(module, batches)
    finally:
        launcher = trainer.strategy.launcher
        assert launcher is not None
        launcher.kill(signal.SIGKILL)
        for name in ENVIRONMENT:
            os.environ.pop(name, None)
        os.environ.update(kept)
