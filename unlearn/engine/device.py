"""What a job computes on: its device, its threads, and their names."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from unlearn.errors import UserError


def share_threads(threads: int | None, jobs: int) -> None:
    """Give a job its CPU threads: ``threads``, else its part of all where several run at once."""
    if threads is None and jobs > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    if threads is not None:
        torch.set_num_threads(threads)


@contextmanager
def threads_shared(threads: int | None, jobs: int) -> Iterator[None]:
    """``share_threads`` for a while; the next job in this process starts from what was before."""
    before = torch.get_num_threads()
    share_threads(threads, jobs)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pick_device(name: str, job: int = 0) -> torch.device:
    """``auto`` is a GPU, of several the next one for each job of a sweep; else the CPU.

    Raises:
        UserError: if there is no such device.
    """
    if name == "auto":
        gpus = torch.cuda.device_count()
        return torch.device(f"cuda:{job % gpus}" if gpus else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            "device", f"{name!r} is not here (auto, cpu, cuda, cuda:N): {reason}"
        ) from error
    return device


@cache
def checkout() -> tuple[str | None, bool]:
    """The checkout's commit and whether files differ from it; None and False outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, False
    words = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None, False
    return said.rstrip("+"), said.endswith("+")


def hardware(device: torch.device) -> str:
    """What the run computed on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [
        line.split(":", 1)[1].strip()
        for line in _read("/proc/cpuinfo").splitlines()
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''} of {name}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
