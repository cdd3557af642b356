"""The command line: check every job first, then let Hydra run them.

Hydra composes configurations, expands sweeps and launches jobs; what it would print as a trace
for bad input is said here in one line instead, before anything is written.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from unlearn.errors import UserError, choices
from unlearn.settings import CONF, KNOBS, Config, check, register, resolve, typed, unknown_key

BAD_INPUT = 2
WRONG_TYPE = re.compile(
    r"Value '([^']*)'[^\n]*? (?:could not be converted to|is incompatible with type hint) "
    r"'?([\w\[\], .|]+)'?"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for bad input, 1 for anything else."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # argparse takes no options between the overrides.
    arguments.sort(key=lambda a: a not in ("-m", "--multirun"))
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr, force=True)
    for noisy in ("hydra", "filelock", "matplotlib", "PIL", "wandb", "git"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if {"-h", "--help"} & set(arguments):
        print(usage())
        return 0
    try:
        parsed = get_args_parser().parse_args(arguments)
        if not (parsed.cfg or parsed.info or parsed.shell_completion):
            jobs = expand(parsed.overrides) if parsed.multirun else [parsed.overrides]
            for job in jobs:
                check_job(job)
        return launch(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        # Hydra makes the sweep's folder before the first job runs.
        print(f"error: {UserError('output_dir', f'cannot be written ({error})')}", file=sys.stderr)
    return BAD_INPUT


def launch(arguments: list[str]) -> int:
    """Hand over to Hydra, once per job; a job that fails for bad input fails alone."""
    register()
    failed: list[UserError] = []

    def job(composed: DictConfig) -> dict[str, Any] | None:
        try:
            return task(typed(composed))
        except UserError as error:
            failed.append(error)
            print(f"error: {error}", file=sys.stderr)
            return None

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back here instead of being printed
    before = sys.argv
    sys.argv = ["run.py", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    finally:
        sys.argv = before
    return BAD_INPUT if failed else 0


def task(cfg: Config) -> dict[str, Any]:
    """One job: compute, print the table and, last, where the metrics are."""
    from unlearn.pipeline import run

    metrics = run(cfg)
    Console().print(table_of(metrics))
    print(metrics["path"], flush=True)
    return dict(metrics["metrics"])


def table_of(metrics: dict[str, Any]) -> Table:
    """Accuracy before and after."""
    table = Table(title=f"{metrics['scenario']}, {metrics['intention']}, {metrics['shots']} shots")
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
        parsed = OverridesParser.create().parse_overrides(overrides)
        return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    except HydraException as error:
        raise translated(error, overrides) from error


def check_job(overrides: list[str]) -> None:
    """Compose and check one job.

    Raises:
        UserError: for whatever is wrong with it.
    """
    try:
        cfg = resolve(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise translated(error, overrides) from error
    check(cfg)


def translated(error: Exception, overrides: Sequence[str]) -> UserError:
    """Hydra's and OmegaConf's errors in one line that names the key and what is allowed."""
    text = str(error)
    cause = error.__cause__
    full = f"{text}\n{cause}" if cause is not None else text
    group = re.search(r"Could not find '([\w/]+)/([^']+)'", full)
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
    }
    cfg = resolve([])
    lines = [
        "Few-shot unlearning: forget, or stop getting wrong, what a few images show.",
        "",
        "  python run.py KEY=VALUE ...            one run",
        "  python run.py -m KEY=VALUE,VALUE ...   a sweep: every combination",
        "",
    ]
    for name, (what, allowed) in KNOBS.items():
        words = allowed if isinstance(allowed, str) else ", ".join(allowed())
        value = defaults.get(name, getattr(cfg, name))
        lines.append(f"  {name:<11} {what} [{value}]: {words}")
    lines += [
        "",
        "Groups below, reached as inversion.steps=500: scenario, model, augment, training,",
        "inversion, filtration, relearning, intention. Their values: conf/scale/*.yaml, or",
        "`python run.py --cfg job`.",
    ]
    return "\n".join(lines)
