"""How the program was started, and what it says to whoever started it."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

CRASHED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143

# Subcommands, each a module with main(arguments) -> int.
COMMANDS = {
    "report": "unlearn.report.__main__",
    "dashboard": "unlearn.report.dashboard",
    "evaluate": "unlearn.runs.again",
    "page": "unlearn.page.command",
}

NOISY = (
    "hydra",
    "hydra_plugins",
    "filelock",
    "matplotlib",
    "PIL",
    "wandb",
    "git",
    "ray",
    "submitit",
)


def program(command: str = "") -> str:
    """What a person types to start this program, with a subcommand.

    Returns:
        ``unlearn`` when installed, ``python run.py`` in a checkout, ``python -m unlearn`` for the
        module.
    """
    started = Path(sys.argv[0]).name if sys.argv else ""
    words = {"run.py": "python run.py", "__main__.py": "python -m unlearn"}.get(started, "unlearn")
    return f"{words} {command}".strip()


def speak() -> None:
    """Log plain lines on standard error, in this process or a worker's."""
    logging.raiseExceptions = False  # a log on a full disk must not end a run
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr, force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


def complain(text: str) -> None:
    """One line on standard error."""
    with suppress(OSError):
        print(f"error: {text}", file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """One line on standard output; nothing where nobody reads it any more (``| head -1``)."""
    try:
        print(text, flush=True)
    except OSError:
        # What is left in the buffer would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
