"""As many jobs as fit into a given time, one after another in this process."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from unlearn.plan import Estimates, Stages, own_seconds, stages
from unlearn.runs import compare, config_hash, matching_oracle, run_folder, run_lock
from unlearn.settings import Config
from unlearn.store import asked_before, lock_free

log = logging.getLogger(__name__)

# Estimates are this much off.
MARGIN = 1.1
# What timed steps say may be so many times too much.
GUESS = 3.0
# Seconds of loading data and drawing pictures, before any job has shown them.
AROUND = 2.0
# Seconds between looks at what another process computes.
LOOK = 0.5
# Seconds after the end in which a step that cannot be interrupted may still end by itself.
GRACE = 4.0
# The store's stages that estimates know by another name.
COSTS = {"original": "training"}


class Ended(BaseException):
    """The time is over, or somebody wants an end. No Exception: no job's failure to be noted."""


class Postponed(BaseException):
    """A stage of the job does not fit any more; those before it are kept."""


class Deadline:
    """The main thread's time: when it is over, or at Ctrl-C or SIGTERM, ``Ended`` is raised.

    Should that not get through (a long step, a library that swallows it), the process ends
    ``GRACE`` seconds later with ``status``: whatever was finished is on the disk.

    Args:
        seconds: the budget.
        start: when it began, of ``time.monotonic``.
    """

    SIGNALS = (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)

    def __init__(self, seconds: float, start: float, status: int) -> None:
        self.seconds, self.start, self.status = seconds, start, status
        self.interrupted = self._over = False
        self._timers: list[threading.Timer] = []
        self._before: dict[int, Any] = {}

    @property
    def left(self) -> float:
        """Seconds."""
        return self.start + self.seconds - time.monotonic()

    @property
    def used(self) -> float:
        """Seconds."""
        return time.monotonic() - self.start

    def __enter__(self) -> Deadline:
        self._before = {s: signal.signal(s, self._end) for s in self.SIGNALS}
        # Again and again: a destructor may swallow it once.
        signal.setitimer(signal.ITIMER_REAL, max(self.left, 1e-3), 1.0)
        self._end_hard_in(max(self.left, 0) + GRACE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        self._over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for timer in self._timers:
            timer.cancel()
        return kind is Ended

    def _end(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGALRM and not self.interrupted:
            self.interrupted = True
            self._end_hard_in(GRACE)
        if not self._over:
            raise Ended

    def _end_hard_in(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._end_hard)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def _end_hard(self) -> None:
        print("stopped in the midst of a step; finished stages are kept", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(self.status)


@dataclass
class Job:
    """A job with a name for people."""

    words: str
    cfg: Config

    @cached_property
    def folder(self) -> Path:
        """Its run's."""
        return run_folder(self.cfg)

    @property
    def taken(self) -> bool:
        """Whether another process is at it."""
        lock = run_lock(self.folder)
        return Path(lock.lock_file).exists() and not lock_free(lock)

    @cached_property
    def hash(self) -> str:
        """Its configuration's."""
        return config_hash(self.cfg)

    @cached_property
    def stages(self) -> Stages:
        """Its stages; several jobs may share some."""
        return stages(self.cfg)

    @cached_property
    def oracle(self) -> Path:
        """The run folder of the oracle that it is measured against."""
        return run_folder(matching_oracle(self.cfg))


def distinct(words: Sequence[str], configs: Sequence[Config]) -> list[Job]:
    """The jobs, each once: tables share runs."""
    jobs = [Job(w, c) for w, c in zip(words, configs, strict=True)]
    return list({job.folder: job for job in reversed(jobs)}.values())[::-1]


@dataclass
class Work:
    """Jobs to be done before a deadline.

    Attributes:
        attempt: computes a job; returns its ``error``, or None.
        keep: is handed every finished job with its metrics, again when they change.
        elsewhere: metrics by configuration hash of runs that were finished on other machines.
        done, failed, postponed: jobs by folder; failures with what went wrong.
    """

    jobs: list[Job]
    deadline: Deadline
    estimates: Estimates
    attempt: Callable[[Config], dict[str, Any]]
    keep: Callable[[Job, dict[str, Any]], None]
    elsewhere: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: set[Path] = field(default_factory=set)
    failed: dict[Path, str] = field(default_factory=dict)
    postponed: set[Path] = field(default_factory=set)
    _paid: set[str] = field(default_factory=set)
    _around: list[float] = field(default_factory=list)
    _computed: bool = False

    def run(self) -> None:
        """Do what fits, the job that is finished soonest first; at last wait for other processes'.

        Raises:
            Ended: when the time is over; what is finished is in ``done`` and on the disk.
        """
        self._paid |= self.estimates.stored
        for job in self.jobs:
            self._see(job)
        while True:
            if (following := self._next()) is not None:
                self._do(*following)
            elif not self._wait():
                return

    @property
    def open(self) -> list[Job]:
        """Those neither done nor failed."""
        return [j for j in self.jobs if j.folder not in self.done and j.folder not in self.failed]

    def seconds(self, job: Job, *, now: bool = False) -> float | None:
        """What a job will take, stages of other jobs that it shares not counted.

        None if it cannot be told, or with ``now`` if that would take timing steps.
        """
        costs = self.estimates.known(job.cfg) if now else self.estimates.of(job.cfg)
        if costs is None:
            return None
        around = sorted(self._around)[len(self._around) // 2] if self._around else AROUND
        return MARGIN * own_seconds(job.stages, costs, self._paid) + around

    def _next(self) -> tuple[Job, bool] | None:
        """The job that is finished soonest, and whether its stages have to fit.

        If none fits as a whole, one with a stage that does: the store keeps that. If none has, and
        nothing was computed so far, one that was judged by timed steps alone is tried all the same.
        What shares a stage with another process's job comes late, what failed before last.
        """
        taken = [j for j in self.open if j.taken]
        free = [j for j in self.open if j not in taken]
        theirs = {key for j in taken for _, key in j.stages} - self._paid
        seconds = {j.folder: self.seconds(j) or 0.0 for j in free}
        shares = {j.folder: any(key in theirs for _, key in j.stages) for j in free}
        failed = {j.folder: (j.folder / "error.json").exists() for j in free}
        order = sorted(free, key=lambda j: tuple(d[j.folder] for d in (failed, shares, seconds)))
        untried = [j for j in order if j.folder not in self.postponed]
        left = self.deadline.left
        fitting = (j for j in untried if seconds[j.folder] <= left)
        parts = (j for j in untried if all(self._fits(j, name) for name in self._unpaid(j)[:1]))
        guesses = (
            j
            for j in order
            if seconds[j.folder] <= GUESS * left and not self.estimates.is_measured(j.cfg)
            if not self._computed
        )
        for jobs, must_fit in ((fitting, True), (parts, True), (guesses, False)):
            if (job := next(jobs, None)) is not None:
                return job, must_fit
        return None

    def _wait(self) -> bool:
        """Let other processes go on; False if none is at a job. One that dies leaves it to us."""
        taken = [j for j in self.open if j.taken]
        if taken:
            time.sleep(LOOK)
        for job in self.open:  # one may have been finished just before it was looked at
            self._see(job)
        return bool(taken)

    def _do(self, job: Job, must_fit: bool) -> None:
        """Compute a job, as far as its stages fit."""

        def may(stage: str) -> None:
            name, names = COSTS.get(stage, stage), [n for n, _ in job.stages]
            if name in names:
                self._paid |= {key for _, key in job.stages[: names.index(name)]}
            if must_fit and not self._fits(job, name):
                raise Postponed(stage)
            self._computed = True

        unpaid, start = self._paid.copy(), time.monotonic()
        try:
            with asked_before(may):
                error = self.attempt(job.cfg)["error"]
        except Postponed as stage:
            log.info("%s: no time left for its %s", job.words, stage)
            self.postponed.add(job.folder)
            return
        if error is not None:
            self.failed[job.folder] = error
            return
        taken = time.monotonic() - start
        self._see(job)
        if (costs := self.estimates.known(job.cfg)) is not None:
            self._around.append(max(0.0, taken - own_seconds(job.stages, costs, unpaid)))
        for other in self.jobs:
            if other.folder in self.done and other.oracle == job.folder and other is not job:
                self._see(other)

    def _see(self, job: Job) -> None:
        """Note a finished job, its distance to its oracle brought up to date."""
        metrics = compare(job.cfg)
        if metrics is not None:
            self._paid |= {key for _, key in job.stages}
            self.estimates.learn(metrics)
        else:
            metrics = self.elsewhere.get(job.hash)
        if metrics is not None:
            self.done.add(job.folder)
            self.keep(job, metrics)

    def _unpaid(self, job: Job) -> list[str]:
        return [name for name, key in job.stages if key not in self._paid]

    def _fits(self, job: Job, name: str) -> bool:
        """Whether a stage fits into what is left."""
        costs = self.estimates.known(job.cfg) or {}
        return MARGIN * costs.get(name, 0.0) <= self.deadline.left
