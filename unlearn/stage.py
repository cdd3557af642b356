"""What every trained stage shares: its Lightning module, its trainer, its watch for NaN."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from unlearn import parallel
from unlearn.computing import Computing, Passes, choose_kernels, kernels
from unlearn.errors import TrainingDiverged
from unlearn.trainer import check_devices, fit_in_processes, quiet_lightning, trainer_on
from unlearn.watch import Counter, Watch

LOG_POINTS = 50
HINT = "lower {group}.lr or look at {group}'s other settings; finished stages are kept"


class Epochs(Protocol):
    """Batches in epochs: ``ends`` is the number of steps done when each epoch ends."""

    ends: list[int]

    def __iter__(self) -> Iterator[Any]: ...


class Stage(pl.LightningModule):
    """A training stage: ``losses`` gives named losses of a batch, ``loss`` is minimised.

    ``history`` fills with one dict every few steps; the host waits for the device only then.
    ``predictions`` fills with the counts of a ``Watch`` on ``model``, if there is one.

    Attributes:
        stage: its name.
        settings: the group of its settings, where that has another name.
        computing: how its networks compute.
    """

    stage = "stage"
    settings: str | None = None
    computing = Computing("fp32")

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
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
            if parallel.world() == 1:
                self.check()
            elif int(self._first_bad) >= 0:  # on every rank alike; the parent process says it
                self.trainer.should_stop = True
            row = {k: float(v.detach()) for k, v in losses.items()}
            self.history.append({"step": step + 1, **row})
            if self._trainer is not None:
                named = {f"{self.stage}/{k}": v for k, v in row.items()}
                # Not by self.log, which makes tensors of them and reads them at every step.
                for logger in self.trainer.loggers:
                    logger.log_metrics(named, step + 1)
        return losses["loss"]

    def place(self, device: torch.device) -> None:
        """Move what is none of the module's children to ``device``; random states stay."""

    def on_fit_start(self) -> None:
        if parallel.world() > 1:
            self.place(self.device)
            parallel.sync_norms(self)
            choose_kernels(self.computing)

    @property
    def fused(self) -> bool | None:
        """What an optimizer is told: on a GPU one kernel for all the weights, else torch's choice.

        Exact but for rounding, like torch's own choice there.
        """
        return True if self.device.type == "cuda" else None

    def get_extra_state(self) -> dict[str, Any]:
        """What comes back from another process beside the weights."""
        return {
            "history": self.history,
            "predictions": self.predictions,
            "first_bad": int(self._first_bad),
        }

    def set_extra_state(self, state: Any) -> None:
        self.history, self.predictions = state["history"], state["predictions"]
        self._first_bad = torch.tensor(state["first_bad"])

    def check(self) -> None:
        """Raise if any loss so far was NaN or infinite."""
        step = int(self._first_bad)
        if step >= 0:
            group = self.settings or self.stage
            raise TrainingDiverged(self.stage, step, HINT.format(group=group))


class ProgressLine(pl.Callback):
    """A bar with the losses on a terminal; elsewhere one plain line every tenth of the way."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None
        self._tenth = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = cast(Stage, pl_module)
        if not trainer.is_global_zero:
            return
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
        module = cast(Stage, pl_module)
        if not trainer.is_global_zero:
            return
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

    Not on the CPU: there torch 2.11's convolution backward can crash on this layout (seen with
    PreAct-ResNet18 at width 8).
    """
    if next(module.parameters()).device.type != "cuda":
        return module
    return cast(M, module.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def fit(
    module: Stage,
    batches: Iterable[Any],
    device: torch.device,
    *,
    clip: float | None = None,
    callbacks: Sequence[pl.Callback] = (),
    logger: Logger | None = None,
    progress: bool = False,
    watch: Watch | None = None,
    devices: int = 1,
    computing: Computing | None = None,
) -> list[dict[str, float]]:
    """Train ``module`` for ``module.steps`` steps over ``batches``; returns its history.

    The caller's random state and the modules' modes are left alone. With a ``watch``, which needs
    batches in ``Epochs`` and a ``module.model``, ``watch.predictions[module.stage]`` is filled.

    With several ``devices`` that many processes share each batch (``unlearn.parallel``): on the
    CPU, where more than the cores do not help, or on the GPUs from ``device`` on.

    ``computing`` is how the networks compute; in float32, not compiled, if nothing is said. GPUs'
    settings are as before afterwards.

    Raises:
        TrainingDiverged: at a NaN or infinite loss.
        UserError: if there are not so many devices, or it cannot be compiled.
    """
    check_devices(devices, device)
    module.computing = computing or module.computing
    module.computing.check(device, devices)
    module.passes = module.computing.passes(device, module.steps, devices)
    shown: list[pl.Callback] = [ProgressLine()] if progress else []
    if watch is not None:
        shown.append(Counter(watch, cast(Epochs, batches).ends))
    with (
        quiet_lightning(),
        torch.random.fork_rng(_cuda_of(device)),
        kernels(module.computing, device),
    ):
        trainer = trainer_on(
            device,
            devices,
            max_steps=module.steps,
            max_epochs=-1,
            gradient_clip_val=clip,
            callbacks=[*shown, *callbacks],
            log_every_n_steps=1,
            logger=logger or False,
        )
        if devices == 1:
            trainer.fit(module, batches)
        else:
            # By way of the CPU: GPUs' memory is not for other processes.
            module.to("cpu").place(torch.device("cpu"))
            try:
                fit_in_processes(trainer, module, batches)
            finally:
                module.place(device)
    module.to(device)
    module.check()
    if watch is not None:
        watch.predictions[module.stage] = module.predictions
    return module.history


def seeded(seed: int, *names: str, device: torch.device | None = None) -> torch.Generator:
    """A random generator of its own for a named purpose, independent of all other draws."""
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    generator = torch.Generator(device or "cpu")
    return generator.manual_seed(int.from_bytes(digest[:7], "big"))


def generator_on(device: torch.device, rng: torch.Generator) -> torch.Generator:
    """A generator with the same state on another device of its kind; on any other, itself."""
    if rng.device == device or rng.device.type != device.type:
        return rng
    return torch.Generator(device).set_state(rng.get_state())


@contextmanager
def seeded_init(seed: int, *names: str) -> Iterator[None]:
    """Module initialisation from a seed, the caller's random state restored after."""
    with torch.random.fork_rng(_all_cuda()):
        torch.manual_seed(seeded(seed, *names).initial_seed())
        yield


def _cuda_of(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []


def _all_cuda() -> list[int]:
    return list(range(torch.cuda.device_count()))
