"""Work in its turn: one job at a time computes, the others wait and can say so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from unlearn.engine.fitting import LossModule
from unlearn.inversion import Inverter
from unlearn.runs.pictures import samples

# Seconds between two looks at the generator's samples.
LOOK = 2.0
PER_ROW = 12


class Stopped(Exception):
    """Somebody stopped the job."""


@dataclass
class Job:
    """Work of one person.

    Attributes:
        title: what it is, in words.
        stage, step, steps: how far it has come.
        grid: the generator's samples, (conditions * PER_ROW, C, H, W) in [0, 1].
        error: what went wrong, in a line.
    """

    title: str
    stage: str = ""
    step: int = 0
    steps: int = 0
    since: float = 0.0
    grid: Tensor | None = None
    error: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    future: Future[None] = field(default_factory=Future)

    @property
    def done(self) -> bool:
        """Whether it has ended, in one way or another."""
        return self.future.done()

    @property
    def waiting(self) -> bool:
        """Whether it has not begun."""
        return not self.future.running() and not self.future.done()

    def at(self, stage: str, step: int = 0, steps: int = 0) -> None:
        """Say how far it has come.

        Raises:
            Stopped: if it has been stopped.
        """
        if self.stop.is_set():
            raise Stopped
        if stage != self.stage:
            self.since = time.monotonic()
        self.stage, self.step, self.steps = stage, step, steps

    @property
    def left(self) -> float | None:
        """Seconds that its stage still takes, at the speed so far; None where it is not known."""
        if not 0 < self.step < self.steps:
            return None
        return (time.monotonic() - self.since) / self.step * (self.steps - self.step)


class Line:
    """The line of jobs. Torch's settings and random state are the process's: no two at once."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="work")
        self._threads = torch.get_num_threads()
        self._jobs: list[Job] = []
        self._lock = threading.Lock()

    def put(self, job: Job, work: Callable[[Job], None]) -> None:
        """Do some work in its turn. What it raises goes to the job's future."""

        def begin() -> None:
            torch.set_num_threads(self._threads)  # another thread's are its own
            work(job)

        with self._lock:
            self._jobs = [j for j in self._jobs if not j.done]
            job.future = self._worker.submit(begin)
            self._jobs.append(job)

    def ahead(self, job: Job) -> int:
        """How many jobs come before it."""
        with self._lock:
            waiting = [j for j in self._jobs if not j.done]
        return waiting.index(job) if job in waiting else 0

    def close(self) -> None:
        """Stop the job at work at its next step, and drop those that wait."""
        with self._lock:
            for job in self._jobs:
                job.stop.set()
        self._worker.shutdown(wait=False, cancel_futures=True)


class Watching(pl.Callback):
    """Tells a job how far its stage has come, and shows what the generator makes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._looked = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        module = cast(LossModule, pl_module)
        self.job.at(module.stage, trainer.global_step, module.steps)
        if isinstance(pl_module, Inverter) and time.monotonic() > self._looked + LOOK:
            self.job.grid = samples(pl_module.generator, PER_ROW)
            self._looked = time.monotonic()
