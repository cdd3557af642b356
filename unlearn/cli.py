"""The command line: check every job first, then let Hydra run them.

Hydra composes configurations, expands sweeps and launches jobs; what it would print as a trace
for bad input is said here in one line instead, before anything is written.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from unlearn.errors import UserError, choices
from unlearn.jobs import in_short, jobs_of, parse, shared
from unlearn.machine import share_threads
from unlearn.settings import CONF, KNOBS, Config, check, register, resolve, typed, unknown_key

log = logging.getLogger(__name__)

CRASHED, BAD_INPUT, INTERRUPTED = 1, 2, 130
WRONG_TYPE = re.compile(
    r"Value '([^']*)'[^\n]*? (?:could not be converted to|is incompatible with type hint) "
    r"'?([\w\[\], .|]+)'?"
)


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
            from unlearn.plan import plan

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
    from unlearn.runs import compare

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
            outcomes = [{"status": 0, "error": None} if compare(c) else lost for c in configs]
    for cfg in configs:
        compare(cfg)
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
    from unlearn.runs import write_failure

    try:
        task(cfg, place)
        return {"status": 0, "error": None}
    except UserError as error:
        outcome = {"status": BAD_INPUT, "error": str(error)}
    except Exception as error:  # a job of a sweep must not take the others with it
        traceback.print_exc()
        outcome = {"status": CRASHED, "error": f"{type(error).__name__}: {error}"}
    write_failure(cfg, str(outcome["error"]))
    return outcome


def number() -> int:
    """The job's number within its sweep."""
    running = HydraConfig.get()
    return running.job.num if running.mode == RunMode.MULTIRUN else 0


def task(cfg: Config, place: int) -> None:
    """Compute the job at ``place`` of a sweep and say what came of it."""
    from unlearn.pipeline import run

    share_threads(cfg.threads, cfg.jobs)
    metrics = run(cfg, place)
    Console().print(table_of(metrics))
    print(metrics["path"], flush=True)


def table_of(metrics: dict[str, Any]) -> Table:
    """Accuracy before and after."""
    given = f"{metrics['shots']} shots" if metrics["shot"] else "all of D"
    words = [metrics["scenario"], metrics["method"], metrics["intention"], given]
    table = Table(title=", ".join(w for w in words if w))
    for column in ("test accuracy, %", "before", "after"):
        table.add_column(column, justify="left" if column.startswith("test") else "right")
    values = metrics["metrics"]
    for name in ("D_r", "D_e"):
        table.add_row(name, f"{100 * values[f'original_{name}']:.2f}", f"{100 * values[name]:.2f}")
    return table


def expand(overrides: list[str]) -> list[list[str]]:
    """The jobs of a sweep, each a list of overrides.

    Raises:
        UserError: if an override cannot be read.
    """
    try:
        return jobs_of(parse(overrides))
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
    if multirun and cfg.trainer.devices > 1:
        raise UserError(
            "trainer.devices",
            f"{cfg.trainer.devices} devices for a job are not allowed in a sweep (-m), where each "
            "job takes one device; use 1, or run the job alone",
        )
    if cfg.experiment is not None and not multirun:
        raise UserError("experiment", f"{cfg.experiment} is a sweep: run it with -m")
    return cfg


def translated(error: Exception, overrides: Sequence[str]) -> UserError:
    """Hydra's and OmegaConf's errors in one line that names the key and what is allowed."""
    text = str(error)
    cause = error.__cause__
    full = f"{text}\n{cause}" if cause is not None else text
    group = re.search(r"Could not find '([\w/]+)/([^']+)'", full)
    if group and group[1] == "hydra/launcher":
        extra = group[2].removeprefix("submitit_")
        return UserError(
            "launcher", f"{group[2]} is not installed: pip install 'few-shot-unlearning[{extra}]'"
        )
    if group and group[1] != "special":
        names = sorted(p.stem for p in (CONF / group[1]).glob("*.yaml"))
        return choices(group[1].replace("/", "."), group[2], names)
    key = re.search(r"full_key: (\S+)", full)
    if key and "missing mandatory value" in full:
        return UserError(key[1], f"needs a value: {key[1]}=...")
    kind = WRONG_TYPE.search(full)
    if kind and key:
        return UserError(key[1], f"{kind[1]!r} is not of type {plain_type(kind[2])}")
    absent = re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", full) or re.search(
        r"Could not override '([^']+)'", full
    )
    if absent:
        name = key[1] if key else absent[1]
        return unknown_key(name, neighbours(name))
    override = next((o for o in overrides if o in text), None)
    first = " ".join(text.split())[:300]
    return UserError(override.split("=")[0] if override else "configuration", first)


def plain_type(hint: str) -> str:
    """A type as a person says it."""
    words = {"Integer": "int", "Float": "float", "Boolean": "bool", "String": "str"}
    return words.get(hint.strip(), hint.strip())


def neighbours(name: str) -> list[str]:
    """The keys beside ``name``, or the top ones where its parent does not exist."""
    node: Any = resolve([])
    for part in name.split(".")[:-1]:
        if not hasattr(node, part):
            return sorted(vars(resolve([])))
        node = getattr(node, part)
    return sorted(vars(node))


def usage() -> str:
    """The text of ``--help``."""
    defaults = {
        "scenario": "7noisymnist",
        "intention": "neg",
        "scale": "paper",
        "baseline": "none",
        "launcher": "basic",
        "recipe": "paper",
    }
    tree = OmegaConf.structured(resolve([]))
    lines = [
        "Few-shot unlearning: forget, or stop getting wrong, what a few images show.",
        "",
        "  python run.py KEY=VALUE ...            one run",
        "  python run.py -m KEY=VALUE,VALUE ...   a sweep: every combination",
        "  python run.py -m experiment=table1     every cell of a table",
        "  ... --dry-run                          the jobs, which are finished, how long the rest",
        "",
    ]
    for name, (what, allowed) in KNOBS.items():
        words = allowed if isinstance(allowed, str) else ", ".join(allowed())
        value = defaults[name] if name in defaults else OmegaConf.select(tree, name)
        lines.append(f"  {name:<17} {what} [{value}]: {words}")
    lines += [
        "",
        "Groups below, reached as inversion.steps=500: scenario, model, augment, training,",
        "inversion, filtration, relearning, intention. Their values: conf/scale/*.yaml, or",
        "`python run.py --cfg job`.",
    ]
    return "\n".join(lines)
