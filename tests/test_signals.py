"""SIGTERM and Ctrl-C: the exit status, one line, what was finished kept, in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.copies import start
from tests.helpers import TINY, errors, shots_of, small_net, taught, tiny
from unlearn import cli as command_line
from unlearn import forget, pipeline
from unlearn.engine import fitting
from unlearn.filtration import Filter
from unlearn.signals import Terminated, terminable

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]
SAYS = {
    signal.SIGTERM: (143, "error: terminated; the same command goes on from here"),
    signal.SIGINT: (130, "error: interrupted; the same command goes on from here"),
}


@pytest.fixture(autouse=True)
def alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process outlives what would end a program."""
    monkeypatch.setattr(command_line, "terminable", partial(terminable, grace=3600))
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, before)


def signalling(number: int, real: Callable[..., object]) -> Callable[..., object]:
    """A function that gets a signal in the middle of what it does."""

    def struck(*given: object, **named: object) -> object:
        os.kill(os.getpid(), number)
        time.sleep(0.01)  # the handler runs between two steps of Python
        return real(*given, **named)

    return struck


# Loading the data, each fit and predict, evaluating, drawing, writing.
PLACES = {
    "loading": (pipeline, "load_task"),
    "fitting": (fitting.LossModule, "training_step"),
    "predicting": (Filter, "predict_step"),
    "evaluating": (pipeline, "evaluate"),
    "drawing": (pipeline.Job, "draw"),
    "writing": (pipeline, "write_text"),
}


@pytest.mark.parametrize("number", SAYS)
@pytest.mark.parametrize("place", PLACES)
def test_a_run_ends_at_once(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    owner, name = PLACES[place]
    monkeypatch.setattr(owner, name, signalling(number, getattr(owner, name)))
    status, out, err = cli(*TINY)
    assert (status, errors(err)) == (SAYS[number][0], [SAYS[number][1]])
    assert err.splitlines()[-1] == SAYS[number][1]
    assert "Traceback" not in err
    assert out == ""
    left = [p.name for p in (tmp_path / "out").rglob("*.json")]
    assert "metrics.json" not in left
    assert "error.json" not in left
    assert not list((tmp_path / "out").rglob("*.partial"))
    kept = {"predicting": 2, "evaluating": 4, "drawing": 4, "writing": 4}
    assert left.count("entry.json") == kept.get(place, 0)


@pytest.mark.parametrize("number", SAYS)
def test_a_sweep_ends_at_once_and_goes_on(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sweep = ["-m", *TINY, "per_class=120", "baseline=original,incompetent,oracle"]
    with monkeypatch.context() as patch:
        # Of the three methods the second is the first one that is fitted by this module.
        fitted = second_of(number, pipeline.Job.by_baseline)
        patch.setattr(pipeline.Job, "by_baseline", fitted)
        status, _, err = cli(*sweep)
    assert (status, errors(err)) == (SAYS[number][0], [SAYS[number][1]])
    assert "jobs finished" not in err
    assert len(list((tmp_path / "out").rglob("metrics.json"))) == 1
    assert not list((tmp_path / "out").rglob("error.json"))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status, _, err = cli(*sweep)
    assert status == 0, err
    assert err.count("finished before") == 1
    assert "3 of 3 jobs finished" in err


def second_of(number: int, real: Callable[..., object]) -> Callable[..., object]:
    """A function whose second call gets a signal."""
    calls: list[None] = []

    def struck(*given: object) -> object:
        calls.append(None)
        return (signalling(number, real) if len(calls) == 2 else real)(*given)

    return struck


@pytest.mark.parametrize("part", ["training_step", "predict_step"])
def test_ctrl_c_within_the_library_is_keyboard_interrupt(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    owner = fitting.LossModule if part == "training_step" else Filter
    model = taught(small_net(), 1, 28, 28)
    monkeypatch.setattr(owner, part, signalling(signal.SIGINT, getattr(owner, part)))
    before = [signal.getsignal(s) for s in SAYS]
    with pytest.raises(KeyboardInterrupt):
        forget(model, *shots_of(1, 28, 28), settings=tiny())
    assert [signal.getsignal(s) for s in SAYS] == before


def test_another_handler_of_sigterm_is_called_and_the_fit_is_no_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came = []
    signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    monkeypatch.setattr(
        fitting.LossModule,
        "training_step",
        signalling(signal.SIGTERM, fitting.LossModule.training_step),
    )
    with pytest.raises(SystemExit) as caught:
        forget(taught(small_net(), 1, 28, 28), *shots_of(1, 28, 28), settings=tiny())
    assert caught.value.code == 143
    assert came


def test_a_second_sigterm_does_not_disturb_the_end() -> None:
    ends = []

    def work() -> None:
        try:
            signalling(signal.SIGTERM, lambda: None)()
        finally:
            signalling(signal.SIGTERM, lambda: ends.append("tidied up"))()

    with pytest.raises(Terminated), terminable(grace=3600):
        work()
    assert ends == ["tidied up"]


def test_elsewhere_than_in_the_main_thread_nothing_is_changed() -> None:
    seen = []

    def work() -> None:
        with terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def stuck() -> None:
    with terminable(grace=1):
        print("ready", flush=True)
        while True:
            with suppress(SystemExit):
                time.sleep(60)


def test_what_does_not_end_is_ended(tmp_path: Path) -> None:
    process = start(tmp_path, stuck)
    while process.is_alive() and (tmp_path / "out").read_text() != "ready\n":
        time.sleep(0.01)
    time.sleep(1)  # until it sleeps where nothing gets through
    process.terminate()
    process.join(60)
    assert process.exitcode == 143
    assert (tmp_path / "err").read_text().splitlines() == [SAYS[signal.SIGTERM][1]]


def test_a_parallel_sweep_ends_with_its_workers(tmp_path: Path) -> None:
    """As ``timeout`` ends it: SIGTERM for the command and for all its processes, within 10 s."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", *TINY, "inversion.steps=100000", "seed=0,1", "launcher=joblib", "threads=1"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *words, f"output_dir={tmp_path / 'out'}"],
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )
    try:
        while "inversion: computing" not in log.read_text() and process.poll() is None:
            time.sleep(0.2)
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
        assert time.monotonic() - start < 10
        while group_lives(process.pid) and time.monotonic() - start < 10:
            time.sleep(0.2)
        assert not group_lives(process.pid)
    finally:
        if group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    said = log.read_text()
    assert errors(said) == [SAYS[signal.SIGTERM][1]]
    assert "Traceback" not in said
    assert len(list((tmp_path / "out" / "store" / "training").glob("*/entry.json"))) == 1
    assert not list((tmp_path / "out").rglob("error.json"))


def group_lives(leader: int) -> bool:
    """Whether a process of the group still runs; one that nobody has waited for does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(group) == leader and state != "Z":
            return True
    return False
