"""Processes that begin as copies of one that has imported the package, which takes long."""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_SERVER = mp.get_context("forkserver")
_SERVER.set_forkserver_preload(["unlearn.cli", "unlearn.pipeline"])


def start(folder: Path, target: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Call a function of a module in a process of its own.

    Its standard output and error go to ``out`` and ``err`` in the folder; what it returns is the
    exit status.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("out", "err"):
        (folder / name).touch()
    process = _SERVER.Process(target=_call, args=(folder, target, arguments))
    process.start()
    return process


def _call(folder: Path, target: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        os.dup2(os.open(folder / name, os.O_WRONLY), stream.fileno())
    sys.exit(target(*arguments))  # type: ignore[arg-type]
