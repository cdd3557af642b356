"""SIGTERM (scancel, docker stop, timeout) as an exception that ends the program in time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from unlearn.program import TERMINATED, complain

GRACE = 7.0
LINE = "terminated; the same command goes on from here"


class Terminated(SystemExit):
    """SIGTERM came. Uncaught, it is exit status 143."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


@contextmanager
def terminable(grace: float = GRACE) -> Iterator[None]:
    """SIGTERM raises ``Terminated`` in the main thread, and ends the process ``grace`` seconds
    later, whatever it does then.

    Outside the main thread, or where SIGTERM is already handled, nothing is changed.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    came = threading.Event()

    def once(number: int, frame: FrameType | None) -> None:
        # `timeout` sends it twice; the second one must not end the tidying up.
        if not came.is_set():
            came.set()
            raise Terminated

    # Python runs handlers between two steps of its own; a long step of torch is told of by the
    # pipe, which a thread reads.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, once)
    threading.Thread(target=_watch, args=(reader, grace), daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if not came.is_set() else signal.SIG_IGN)
        signal.set_wakeup_fd(before)
        os.close(writer)


def _watch(reader: int, grace: float) -> None:
    """Wait for SIGTERM's number in the pipe, or for its end; then end the process in time."""
    while number := os.read(reader, 1):
        if number[0] == signal.SIGTERM:
            threading.Event().wait(grace)
            complain(LINE)
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(TERMINATED)
    os.close(reader)
