"""Jobs at work: one of them, maybe in a worker process, and a sweep by the chosen launcher."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from unlearn.config import Config, resolve, typed
from unlearn.engine.device import threads_shared
from unlearn.engine.store import DISK_FULL, writing
from unlearn.errors import UserError
from unlearn.program import BAD_INPUT, CRASHED, complain, speak, tell
from unlearn.runs.record import Record
from unlearn.runs.run import Run
from unlearn.sweep.jobs import in_short, jobs_of, parse_overrides

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its exit status, and what went wrong in one line."""

    status: int = 0
    error: str | None = None


def job(composed: DictConfig) -> Outcome:
    """One job as Hydra runs it, maybe in a worker process.

    Raises:
        SystemExit: if it fails and is no part of a sweep; Hydra drops what a job returns.
    """
    speak()
    running = HydraConfig.get()
    if running.mode == RunMode.MULTIRUN:
        return attempt(typed(composed), running.job.num)
    outcome = attempt(typed(composed))
    if outcome.error:
        complain(outcome.error)
        raise SystemExit(outcome.status)
    return outcome


def attempt(cfg: Config, place: int = 0) -> Outcome:
    """Compute a checked job, print its table and where the metrics are.

    Args:
        place: its number within a sweep.
    """
    try:
        task(cfg, place)
        return Outcome()
    except UserError as error:
        outcome = Outcome(BAD_INPUT, str(error))
    except Exception as error:  # a job of a sweep must not take the others with it
        outcome = crash(error)
    Run(cfg).failed(str(outcome.error))
    return outcome


def crash(error: Exception) -> Outcome:
    """What becomes of a job by an error that nobody expected."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return Outcome(BAD_INPUT, str(UserError("output_dir", f"cannot be written ({error})")))
    traceback.print_exception(error)
    return Outcome(CRASHED, f"{type(error).__name__}: {' '.join(str(error).split())}")


def task(cfg: Config, place: int) -> None:
    """Compute the job at ``place`` of a sweep and say what came of it."""
    from unlearn.pipeline import run

    with threads_shared(cfg.threads, cfg.jobs):
        record = run(cfg, place)
    screen = Console()
    with screen.capture() as shown:
        screen.print(table_of(record))
    tell(f"{shown.get()}{Run(cfg).folder / 'metrics.json'}")


def table_of(record: Record) -> Table:
    """Accuracy before and after; of one's own model without test images, what it answers."""
    limited = record.shot or record.answers is not None
    given = f"{record.shots} shots" if limited else "all of D"
    words = [record.scenario, record.method, record.intention, given]
    table = Table(title=", ".join(w for w in words if w))
    first = "test accuracy, %" if record.answers is None else "%"
    for column in (first, "before", "after"):
        table.add_column(column, justify="left" if column == first else "right")
    values = record.metrics
    for name in [n for n in ("D_r", "D_e") if n in values]:
        table.add_row(name, f"{100 * values[f'original_{name}']:.2f}", f"{100 * values[name]:.2f}")
    answers = record.answers or {}
    for answer in record.classes:
        counts = [answers[when].get(answer, 0) for when in answers]
        if any(counts):
            shares = (f"{100 * n / record.shots:.0f}" for n in counts)
            table.add_row(f"shots answered {answer}", *shares)
    return table


def sweep(
    arguments: Sequence[str], context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> int:
    """Run many jobs by the chosen launcher; one that fails, fails alone, and is named at the end.

    Args:
        arguments: overrides as given, checked before.
        config: what they compose but for what is swept over; has the launcher's settings.

    Returns:
        The exit status.
    """
    jobs = jobs_of(parse_overrides(arguments))
    folder = Path(config.hydra.sweep.dir)
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except UserError as error:
        complain(str(error))
        return BAD_INPUT
    try:
        launcher = Plugins.instance().instantiate_launcher(context, task_function, config)
        returned = launcher.launch(jobs, initial_job_idx=0)
        outcomes = [outcome_of(one) for one in returned]
        configs = [typed(one.cfg) for one in returned]
    except Exception as error:  # a worker died: what the others finished is on the disk
        complain(f"launcher: {type(error).__name__}: {' '.join(str(error).split())}")
        configs = [resolve(overrides) for overrides in jobs]
        lost = Outcome(CRASHED, "did not finish")
        outcomes = [Outcome() if Run(cfg).finished() else lost for cfg in configs]
    return closing(in_short(jobs), configs, outcomes)


def outcome_of(returned: JobReturn) -> Outcome:
    """What a launcher brings back of a job."""
    try:
        outcome = returned.return_value
    except UserError as error:
        return Outcome(BAD_INPUT, str(error))
    except Exception as error:  # Hydra's own part of the job
        return crash(error)
    assert isinstance(outcome, Outcome)
    return outcome


def closing(names: Sequence[str], configs: Sequence[Config], outcomes: Sequence[Outcome]) -> int:
    """Say what became of a sweep's jobs; returns the exit status."""
    for cfg in configs:
        try:
            # An oracle may have been finished after what is measured against it.
            Run(cfg).finished()
        except UserError as error:
            log.warning("the distance to the oracle is left as it was: %s", error)
    failed = [(name, o) for name, o in zip(names, outcomes, strict=True) if o.error]
    log.info("%d of %d jobs finished", len(outcomes) - len(failed), len(outcomes))
    for name, outcome in failed:
        complain(f"{name}: {outcome.error}")
    return max((outcome.status for _, outcome in failed), default=0)
