"""How every trained stage is fitted: its Lightning module, its batches, its watch for NaN."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol, TypeVar, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from unlearn.engine.alone import alone
from unlearn.engine.precision import Passes, Precision, kernels
from unlearn.engine.seeding import seeded_globally
from unlearn.engine.watch import Counter, Watch
from unlearn.errors import TrainingDiverged

LOG_POINTS = 50
HINT = "lower {group}.lr or look at {group}'s other settings; finished stages are kept"


class Epochs(Protocol):
    """Batches in epochs: ``ends`` is the number of steps done when each epoch ends."""

    ends: list[int]

    def __iter__(self) -> Iterator[Any]: ...


class LossModule(pl.LightningModule):
    """A stage's Lightning module: ``losses`` names a batch's losses, ``loss`` is minimised.

    ``history`` fills with one dict every few steps; the host waits for the device only then.
    ``predictions`` fills with the counts of a ``Watch`` on ``model``, if there is one.

    Attributes:
        stage: its name.
        settings: the group of its settings, where that has another name.
        rng: draws all that the stage itself draws; its seed also seeds what the networks draw.
        frozen: networks that it asks beside its children; Lightning neither trains nor moves them.
    """

    stage = "stage"
    settings: str | None = None
    rng: torch.Generator

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.frozen: dict[str, nn.Module] = {}
        self.history: list[dict[str, float]] = []
        self.predictions: dict[str, list[Any]] = {"epoch": [], "counts": []}
        self.every = max(1, steps // LOG_POINTS)
        self._first_bad = torch.tensor(-1)
        self.passes = Passes()

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Named losses of one batch; the one called ``loss`` is minimised."""
        raise TypeError(f"{type(self).__name__} must define losses")

    def training_step(self, batch: Any, _index: int) -> Tensor:
        with self.passes.here():
            losses, step = self.losses(batch), self.global_step
        bad = ~torch.isfinite(losses["loss"].detach())
        if self._first_bad.device != bad.device:  # a copy would be waited for
            self._first_bad = torch.full_like(bad, -1, dtype=torch.long)
        self._first_bad = torch.where((self._first_bad < 0) & bad, step, self._first_bad)
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            self.check()
            row = {k: float(v.detach()) for k, v in losses.items()}
            self.history.append({"step": step + 1, **row})
            if self._trainer is not None:
                named = {f"{self.stage}/{k}": v for k, v in row.items()}
                # Not by self.log, which makes tensors of them and reads them at every step.
                for logger in self.trainer.loggers:
                    logger.log_metrics(named, step + 1)
        return losses["loss"]

    @property
    def fused(self) -> bool | None:
        """What an optimizer is told: on a GPU one kernel for all the weights, else torch's choice.

        Exact but for rounding, like torch's own choice there.
        """
        return True if self.device.type == "cuda" else None

    def check(self) -> None:
        """Raise if any loss so far was NaN or infinite."""
        step = int(self._first_bad)
        if step >= 0:
            group = self.settings or self.stage
            raise TrainingDiverged(self.stage, step, HINT.format(group=group))


def annealed(optimizer: torch.optim.Optimizer, steps: int) -> dict[str, Any]:
    """What Lightning is given for a learning rate that falls to 0 as half a cosine does."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Fit:
    """How stages are fitted and shown.

    Attributes:
        callbacks: for Lightning.
        logger: a Lightning logger; gets the losses, named STAGE/LOSS.
        progress: show the stages' progress on standard error.
        watch: images whose predictions are counted after every epoch.
        precision: how the networks compute.
    """

    callbacks: Sequence[pl.Callback] = ()
    logger: Logger | None = None
    progress: bool = False
    watch: Watch | None = None
    precision: Precision = field(default_factory=lambda: Precision("fp32"))

    def run(
        self,
        module: LossModule,
        batches: Iterable[Any],
        device: torch.device,
        clip: float | None = None,
        callbacks: Sequence[pl.Callback] = (),
    ) -> list[dict[str, float]]:
        """Train ``module`` for ``module.steps`` steps over ``batches``; returns its history.

        The caller's random state, signal handlers and GPU settings and the modules' modes are
        left alone. With a ``watch``, which needs batches in ``Epochs`` and a ``module.model``,
        ``watch.predictions[module.stage]`` is filled.

        Args:
            clip: the largest norm of the gradient.
            callbacks: of this stage alone.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
            UserError: if it cannot be compiled.
            KeyboardInterrupt: at Ctrl-C.
        """
        self.precision.check(device)
        module.passes = self.precision.passes(device, module.steps)
        shown: list[pl.Callback] = [ProgressLine()] if self.progress else []
        if self.watch is not None:
            shown.append(Counter(self.watch, cast(Epochs, batches).ends))
        with (
            lightning(),
            seeded_globally(module.rng.initial_seed()),
            kernels(self.precision, device),
            laid_out([*module.children(), *module.frozen.values()], self.precision, device),
        ):
            trainer = trainer_on(
                device,
                max_steps=module.steps,
                max_epochs=-1,
                gradient_clip_val=clip,
                callbacks=[*shown, *self.callbacks, *callbacks],
                log_every_n_steps=1,
                logger=self.logger or False,
            )
            trainer.fit(module, batches)
        module.to(device)
        module.check()
        if self.watch is not None:
            self.watch.predictions[module.stage] = module.predictions
        return module.history


class ShuffledRows:
    """Index batches of a data set that lies on the device, reshuffled every epoch."""

    def __init__(self, rows: int, size: int, epochs: int, rng: torch.Generator) -> None:
        self.rows, self.size, self.rng = rows, size, rng
        steps = number_of_batches(rows, size)
        self.ends = [steps * (epoch + 1) for epoch in range(epochs)]

    def __len__(self) -> int:
        return self.ends[-1]

    def __iter__(self) -> Iterator[Tensor]:
        for _ in self.ends:
            order = torch.randperm(self.rows, device=self.rng.device, generator=self.rng)
            yield from batched(order, self.size)


def batched(rows: Tensor, size: int) -> list[Tensor]:
    """Rows (n,) in batches of ``size``, none of one row: BatchNorm in train mode refuses that.

    A single row left over joins the batch before it; a single row in all counts twice.

    Example:
        >>> [len(b) for b in batched(torch.arange(9), 4)]
        [4, 5]
    """
    if len(rows) == 1:
        return [rows.repeat(2)]
    parts = list(rows.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def number_of_batches(rows: int, size: int) -> int:
    """How many batches ``batched`` makes."""
    return -(-rows // size) - (rows > size and rows % size == 1)


class ProgressLine(pl.Callback):
    """A bar with the losses on a terminal; elsewhere one plain line every tenth of the way."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None
        self._tenth = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = cast(LossModule, pl_module)
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[losses]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(module.stage, total=module.steps, losses="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        module = cast(LossModule, pl_module)
        done = trainer.global_step
        row = module.history[-1] if module.history else {}
        shown = ["loss"] if self._bar is not None and self._bar.console.width < 140 else list(row)
        text = " ".join(f"{k} {row[k]:.3g}" for k in shown if k in row and k != "step")
        if self._bar is not None:
            self._bar.update(self._task, completed=done, losses=text)
        elif done * 10 // module.steps > self._tenth:
            self._tenth = done * 10 // module.steps
            print(
                f"  {module.stage} {done}/{module.steps} {text}",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


M = TypeVar("M", bound=nn.Module)


def gpu_layout(module: M) -> M:
    """Channels last on a GPU, where convolutions like it best; the values stay the same.

    ``laid_out`` says what is done on a CPU.
    """
    if next(module.parameters()).device.type != "cuda":
        return module
    return _in_layout(module, torch.channels_last)


@contextmanager
def laid_out(
    networks: Sequence[nn.Module], precision: Precision, device: torch.device
) -> Iterator[None]:
    """Networks with channels last within, where a CPU computes them faster so: in bfloat16.

    In float32 torch 2.11's backward pass can crash on this layout (PreAct-ResNet18 of width 8 on
    28 pixels), and in bfloat16 it gives wrong weights' gradients of some grouped convolutions: both
    keep their layout.
    """
    able = [n for n in networks if precision.native_bf16(device) and not _grouped(n)]
    for network in able:
        _in_layout(network, torch.channels_last)
    try:
        yield
    finally:
        for network in able:
            _in_layout(network, torch.contiguous_format)


def _grouped(network: nn.Module) -> bool:
    convolutions = (nn.Conv2d, nn.ConvTranspose2d)
    return any(m.groups > 1 for m in network.modules() if isinstance(m, convolutions))


def _in_layout(module: M, layout: torch.memory_format) -> M:
    return cast(M, module.to(memory_format=layout))  # type: ignore[call-overload]


def trainer_on(device: torch.device, **settings: Any) -> pl.Trainer:
    """A Lightning trainer for one device that writes nothing by itself.

    A cluster's or launcher's variables are not heeded: one job computes on one device.
    """
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        plugins=[LightningEnvironment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, **settings},
    )


@contextmanager
def lightning() -> Iterator[None]:
    """Lightning at work: quiet, in one process, signals as if it were not there.

    By itself it would turn Ctrl-C into ``SystemExit``, and SIGTERM into an early end that looks
    like success.

    Raises:
        KeyboardInterrupt: at Ctrl-C.
        SystemExit: 143 at SIGTERM, if the handler that was there returns.
    """
    in_main = threading.current_thread() is threading.main_thread()
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)} if in_main else {}
    if before.get(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
    try:
        with _quiet(), alone():
            yield
    except SIGTERMException:  # another handler lets the process live; Lightning stops all the same
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not set from Python
                signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    """End this process by the signal, as it would without a handler."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def _quiet() -> Iterator[None]:
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
