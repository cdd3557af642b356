"""The command line: check every job first, then let Hydra run them.

Hydra composes configurations, expands sweeps and launches jobs; what it would print as a trace
for bad input is said here in one line instead, before anything is written.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from unlearn.config import CONF, Config, check, resolve, typed
from unlearn.config.errors import translated
from unlearn.config.knobs import usage
from unlearn.config.private import Callbacks, Hydra, get_args_parser
from unlearn.config.schema import register
from unlearn.engine.device import share_threads
from unlearn.errors import UserError
from unlearn.runs.record import Record
from unlearn.runs.run import Run
from unlearn.sweep.jobs import in_short, jobs_of, parse_overrides, shared

log = logging.getLogger(__name__)

CRASHED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for bad input, 1 for anything else."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # argparse takes no options between the overrides.
    arguments.sort(key=lambda a: a not in ("-m", "--multirun"))
    speak()
    if {"-h", "--help"} & set(arguments):
        print(usage())
        return 0
    dry = "--dry-run" in arguments
    arguments = [a for a in arguments if a != "--dry-run"]
    try:
        register()
        parsed = get_args_parser().parse_args(arguments)
        if parsed.cfg or parsed.info or parsed.shell_completion:
            return show(arguments)
        jobs = expand(parsed.overrides) if parsed.multirun else [parsed.overrides]
        configs = check_jobs(jobs, parsed.multirun)
        if dry:
            from unlearn.sweep.plan import plan

            share_threads(configs[0].threads, configs[0].jobs)
            screen = Console()
            screen.print(plan(in_short(jobs), configs), width=None if screen.is_terminal else 160)
            return 0
        if parsed.multirun:
            return sweep(jobs, configs)
        return alone(parsed.overrides)
    except UserError as error:
        complain(str(error))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        # Hydra makes the sweep's folder before the first job runs.
        complain(str(UserError("output_dir", f"cannot be written ({error})")))
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on from here")
        return INTERRUPTED
    return BAD_INPUT


def speak() -> None:
    """Plain lines on standard error, in this process or a worker's."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr, force=True)
    for noisy in ("hydra", "filelock", "matplotlib", "PIL", "wandb", "git", "ray", "submitit"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def complain(text: str) -> None:
    """One line on standard error."""
    print(f"error: {text}", file=sys.stderr)


def show(arguments: list[str]) -> int:
    """Hydra's own options: ``--cfg job`` and the like."""
    before = sys.argv
    sys.argv = ["run.py", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    finally:
        sys.argv = before
    return 0


@contextmanager
def hydra_here() -> Iterator[Hydra]:
    """Hydra over our configuration."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().hydra  # type: ignore[misc]


def alone(overrides: list[str]) -> int:
    """One job in this process."""
    with hydra_here() as engine:
        outcome = engine.run("config", job, overrides, with_log_configuration=False).return_value
    if outcome["error"]:
        complain(outcome["error"])
    return int(outcome["status"])


def sweep(jobs: list[list[str]], configs: list[Config]) -> int:
    """Many jobs, by the chosen launcher; one that fails, fails alone, and is named at the end."""
    with hydra_here() as engine:
        # The launcher's settings are among what the jobs share.
        composed = engine.compose_config(
            "config", shared(jobs), run_mode=RunMode.MULTIRUN, with_log_configuration=False
        )
        Path(composed.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        context = HydraContext(config_loader=engine.config_loader, callbacks=Callbacks(composed))
        launcher = Plugins.instance().instantiate_launcher(context, job, composed)
        try:
            outcomes = [r.return_value for r in launcher.launch(jobs, initial_job_idx=0)]
        except Exception as error:  # a worker died: what the others finished is on the disk
            complain(f"launcher: {type(error).__name__}: {' '.join(str(error).split())}")
            lost = {"status": CRASHED, "error": "did not finish"}
            outcomes = [
                {"status": 0, "error": None} if Run(c).finished() else lost for c in configs
            ]
    for cfg in configs:
        Run(cfg).finished()  # an oracle may have been finished after what is measured against it
    failed = [(words, o) for words, o in zip(in_short(jobs), outcomes, strict=True) if o["error"]]
    log.info("%d of %d jobs finished", len(jobs) - len(failed), len(jobs))
    for words, outcome in failed:
        complain(f"{words}: {outcome['error']}")
    return max((int(o["status"]) for _, o in failed), default=0)


def job(composed: DictConfig) -> dict[str, Any]:
    """One job, maybe in a worker process; returns what ``attempt`` does."""
    speak()
    return attempt(typed(composed), number())


def attempt(cfg: Config, place: int = 0) -> dict[str, Any]:
    """Compute a checked job, print its table and where the metrics are.

    Returns:
        ``status``: the exit status; ``error``: what went wrong, in one line, or None.
    """
    try:
        task(cfg, place)
        return {"status": 0, "error": None}
    except UserError as error:
        outcome = {"status": BAD_INPUT, "error": str(error)}
    except Exception as error:  # a job of a sweep must not take the others with it
        traceback.print_exc()
        outcome = {"status": CRASHED, "error": f"{type(error).__name__}: {error}"}
    Run(cfg).failed(str(outcome["error"]))
    return outcome


def number() -> int:
    """The job's number within its sweep."""
    running = HydraConfig.get()
    return running.job.num if running.mode == RunMode.MULTIRUN else 0


def task(cfg: Config, place: int) -> None:
    """Compute the job at ``place`` of a sweep and say what came of it."""
    from unlearn.pipeline import run

    share_threads(cfg.threads, cfg.jobs)
    record = run(cfg, place)
    Console().print(table_of(record))
    print(Run(cfg).folder / "metrics.json", flush=True)


def table_of(record: Record) -> Table:
    """Accuracy before and after."""
    given = f"{record.shots} shots" if record.shot else "all of D"
    words = [record.scenario, record.method, record.intention, given]
    table = Table(title=", ".join(w for w in words if w))
    for column in ("test accuracy, %", "before", "after"):
        table.add_column(column, justify="left" if column.startswith("test") else "right")
    values = record.metrics
    for name in ("D_r", "D_e"):
        table.add_row(name, f"{100 * values[f'original_{name}']:.2f}", f"{100 * values[name]:.2f}")
    return table


def expand(overrides: list[str]) -> list[list[str]]:
    """The jobs of a sweep, each a list of overrides.

    Raises:
        UserError: if an override cannot be read.
    """
    try:
        return jobs_of(parse_overrides(overrides))
    except HydraException as error:
        raise translated(error, overrides) from error


def check_jobs(jobs: list[list[str]], multirun: bool) -> list[Config]:
    """Compose and check every job; jobs that differ in their seed alone are composed once.

    Raises:
        UserError: for whatever is wrong with one of them.
    """
    composed: dict[tuple[str, ...], Config] = {}
    configs = []
    for overrides in jobs:
        seeds = [o.removeprefix("seed=") for o in overrides if o.startswith("seed=")]
        others = tuple(o for o in overrides if not o.startswith("seed="))
        if len(seeds) != 1 or not seeds[0].isdecimal():
            configs.append(check_job(overrides, multirun))
            continue
        if others not in composed:
            composed[others] = check_job(overrides, multirun)
        configs.append(replace(composed[others], seed=int(seeds[0])))
    return configs


def check_job(overrides: list[str], multirun: bool) -> Config:
    """Compose and check one job.

    Raises:
        UserError: for whatever is wrong with it.
    """
    try:
        cfg = resolve(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise translated(error, overrides) from error
    check(cfg)
    if cfg.experiment is not None and not multirun:
        raise UserError("experiment", f"{cfg.experiment} is a sweep: run it with -m")
    return cfg
