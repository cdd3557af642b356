"""The command line: check every job first, then let Hydra run them.

Hydra composes configurations, expands sweeps and launches jobs; what it would print as a trace
for bad input is said here in one line instead, before anything is written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import hydra
from rich.console import Console

from unlearn.config import CONF
from unlearn.config.knobs import usage
from unlearn.config.schema import register
from unlearn.errors import UserError, choices
from unlearn.program import (
    BAD_INPUT,
    COMMANDS,
    INTERRUPTED,
    TERMINATED,
    complain,
    program,
    speak,
    tell,
)
from unlearn.signals import LINE, Terminated, terminable
from unlearn.sweep.checked import check_jobs, compose_job, expand
from unlearn.sweep.jobs import in_short
from unlearn.sweep.launch import job

SWEEP = ("-m", "--multirun")
OWN = (*SWEEP, "-r", "--run", "--dry-run")
# Of Hydra's options, with its short forms: those that show something.
SHOWING = (
    *("--cfg", "-c", "--info", "-i", "--hydra-help", "--version"),
    *("--shell-completion", "-sc", "--package", "-p", "--resolve"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None is the process's own.

    Returns:
        The exit status: 0; 2 for bad input; 130 and 143 after Ctrl-C and SIGTERM; 1 for anything
        else that failed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    speak()
    with terminable():
        try:
            return chosen(given)()
        except UserError as error:
            complain(str(error))
            return BAD_INPUT
        except KeyboardInterrupt:
            complain("interrupted; the same command goes on from here")
            return INTERRUPTED
        except Terminated:
            complain(LINE)
            return TERMINATED


def chosen(arguments: list[str]) -> Callable[[], int]:
    """What the command line asks for.

    Raises:
        UserError: for a word or an option that there is not.
    """
    first, rest = (arguments or [""])[0], arguments[1:]
    if first in COMMANDS:
        return lambda: int(import_module(COMMANDS[first]).main(rest))
    if "--evaluate" in arguments:
        others = [a for a in arguments if a != "--evaluate"]
        return lambda: int(import_module(COMMANDS["evaluate"]).main(others))
    if first == "plan":
        return chosen([*rest, "--dry-run"])
    options = [a.partition("=")[0] for a in arguments if a.startswith("-")]
    if {"-h", "--help"} & set(options):
        return help_text
    if set(options) & set(SHOWING):
        return lambda: shown(arguments)
    if strange := [option for option in options if option not in OWN]:
        raise choices("options", strange[0], [*OWN, "--evaluate", "--help", *SHOWING])
    overrides = [a for a in arguments if not a.startswith("-")]
    dry = "--dry-run" in options
    table = any(o.startswith("experiment=") and o != "experiment=null" for o in overrides)
    multirun = bool({*SWEEP} & set(options)) or (dry and table)  # the plan of a table is a sweep's
    return lambda: jobs(overrides, multirun, dry)


def help_text() -> int:
    """Print the knobs."""
    tell(usage())
    return 0


def jobs(overrides: list[str], multirun: bool, dry: bool) -> int:
    """Check all jobs, then run them, or say what they would do; returns the exit status.

    Raises:
        UserError: for whatever is wrong with one of them.
    """
    register()
    listed = expand(overrides) if multirun else [overrides]
    configs = check_jobs(listed, multirun)
    if dry:
        from unlearn.sweep.plan import plan

        screen = Console()
        shown = plan(in_short(listed), configs)
        screen.print(shown, width=None if screen.is_terminal else 160)
        return 0
    # argparse takes no options between the overrides.
    return by_hydra([*(["--multirun"] if multirun else []), *overrides])


def shown(arguments: list[str]) -> int:
    """Let Hydra show a configuration, also one that could not be run; returns the exit status.

    Raises:
        UserError: for a sweep, and for an override that cannot be read or names what there is not.
    """
    if sweep := {*SWEEP} & {*arguments}:
        raise UserError(sweep.pop(), "one configuration is shown; leave it out")
    register()
    compose_job([a for a in arguments if "=" in a and not a.startswith("-")])
    return by_hydra(arguments)


def by_hydra(arguments: list[str]) -> int:
    """Hand over to Hydra; returns the exit status, which leaves it as ``SystemExit``."""
    register()
    before = sys.argv
    sys.argv = [program(), *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except Terminated:
        raise
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return 0
