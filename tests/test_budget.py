"""scripts/reproduce.py: what fits into a budget, what is left, and that a stop changes nothing."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scripts.kill import INCIDENTAL
from scripts.reproduce import main, seconds_of
from tests.test_sweeps import CELL, errors
from unlearn import budget
from unlearn.cli import expand
from unlearn.errors import UserError
from unlearn.runs import run_folder, run_lock
from unlearn.settings import relevant, resolve
from unlearn.stage import Stage

Run = Callable[..., tuple[int, str, str]]
# Two of ours, with and without scrubbing, that share their original and their inversion; and one.
TWO = ["--tables", "table7", *CELL, "seed=0", "shot=1.0", "baseline=none"]
ONE = ["--tables", "table3", *CELL, "seed=0", "inversion.weights.tar=0"]


@pytest.fixture
def reproduce(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the script into ``tmp_path/out``: exit status, standard output and error."""

    def run(*arguments: str, budget: str = "5m", out: str = "out") -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([*arguments, "--budget", budget, f"output_dir={tmp_path / out}"])
        return status, *capfd.readouterr()

    return run


def numbers(root: Path) -> dict[str, Any]:
    """What every run below a folder measured, by its folder."""
    found = {p.parent: json.loads(p.read_text()) for p in root.rglob("metrics.json")}
    return {
        str(folder.relative_to(root)): {k: v for k, v in m.items() if k not in INCIDENTAL}
        for folder, m in found.items()
    }


def measured(folder: Path, job: list[str], seconds: dict[str, float]) -> Path:
    """A folder that says how long a run of a job's length took elsewhere."""
    folder.mkdir()
    content = {"config": relevant(resolve(job)), "seconds": seconds}
    (folder / "before.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("9m", 540), ("1h", 3600), ("1h30m", 5400)]
)
def test_budgets(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "9", "m", "0s", "-9m", "9 m", "1.5h", "30m1h", "9M"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UserError, match=r"--budget: .* is not a time like 90s, 9m, 1h or 1h30m"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "soon"], "--budget: 'soon'"),
        (["--budget", "9m", "--tables", "tabel1"], "did you mean 'table1'"),
        (["--budget", "9m", "--tables", "table6", "scenario=7mnist"], "table6 has no cell"),
        (["--budget", "9m", "--tables", "fig1", "model.widht=4"], "did you mean"),
        (["--budget", "9m", "--tables", "fig1", "--done", "nowhere"], "--done: nowhere"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    (line,) = errors(err)
    assert words in line
    assert out == ""
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("undisturbed")
    assert main([*TWO, "--budget", "5m", f"output_dir={root}"]) == 0
    return numbers(root)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGALRM, 3), (signal.SIGINT, 130), (signal.SIGTERM, 130)],
    ids=["budget", "ctrl-c", "sigterm"],
)
def test_what_was_stopped_goes_on_to_the_same_numbers(
    number: signal.Signals,
    status: int,
    reproduce: Run,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped between two steps of the second job's relearning."""
    real, handlers = Stage.training_step, [signal.getsignal(s) for s in signal.Signals]

    def step(stage: Stage, batch: Any, index: int) -> Any:
        done = list((tmp_path / "out").rglob("metrics.json"))
        if done and stage.stage == "relearning" and stage.global_step == 1:
            signal.raise_signal(number)
        return real(stage, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "training_step", step)
        first = reproduce(*TWO)
    assert first[0] == status, first[2]
    assert f"1 of {len(undisturbed)} wanted runs finished" in first[1]
    assert first[1].count("left: ") == len(undisturbed) - 1
    assert handlers == [signal.getsignal(s) for s in signal.Signals]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    before = numbers(tmp_path / "out")
    assert len(before) == 1
    second = reproduce(*TWO)
    assert second[0] == 0, second[2]
    assert "left: " not in second[1]
    assert "original: computing" not in second[2]
    assert numbers(tmp_path / "out") == undisturbed


def test_the_time_is_over_within_seconds(
    reproduce: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that does not fit is left alone, unless nothing else is there and it is a guess."""
    long = [*ONE, "inversion.steps=1000000"]
    status, out, err = reproduce(*long, budget="6s")
    assert status == 3
    assert "no time left for its inversion" in err
    assert len(list((tmp_path / "out" / "store").glob("*/*/entry.json"))) == 1  # the original
    monkeypatch.setattr(budget, "GUESS", 1e9)
    start = time.monotonic()
    status, out, err = reproduce(*long, budget="4s")
    assert 4 <= time.monotonic() - start < 4 + 5
    assert status == 3, err
    assert "inversion: computing" in err
    assert "0 of 1 wanted runs finished; 4 of 4 seconds used" in out


def test_a_step_that_does_not_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended, statuses = threading.Event(), []
    monkeypatch.setattr(budget, "GRACE", 0.2)
    monkeypatch.setattr(budget.os, "_exit", lambda status: (statuses.append(status), ended.set()))
    with budget.Deadline(0.1, time.monotonic(), 3):
        while not ended.is_set():
            with suppress(budget.Ended):
                ended.wait(5)
    assert statuses == [3]
    assert "finished stages are kept" in capfd.readouterr().err


def test_a_job_too_long_gives_way_to_one_that_fits(reproduce: Run, tmp_path: Path) -> None:
    (ours,) = expand(["experiment=table3", *ONE[2:]])
    slow = measured(tmp_path / "slow", ours, {"training": 0.1, "inversion": 1e4})
    status, out, err = reproduce("--tables", "table3", "fig1", *ONE[2:], "--done", str(slow))
    assert status == 3
    assert "1 of 2 wanted runs finished" in out
    assert "inversion: computing" not in err
    (run,) = numbers(tmp_path / "out")
    assert "original" in run
    assert out.count("about 3 hours") == 2  # of the job, and in all


def test_a_stage_that_fits_is_computed_though_its_job_does_not(
    reproduce: Run, tmp_path: Path
) -> None:
    (ours,) = expand(["experiment=table3", *ONE[2:]])
    slow = measured(tmp_path / "slow", ours, {"inversion": 0.1, "relearning": 1e4})
    status, out, err = reproduce(*ONE, "--done", str(slow))
    assert status == 3
    assert "0 of 1 wanted runs finished" in out
    assert "no time left for its relearning" in err
    stages = {p.parts[-3] for p in (tmp_path / "out" / "store").glob("*/*/entry.json")}
    assert stages == {"original", "inversion", "filtration"}


def test_a_failing_job_is_named_and_the_others_go_on(reproduce: Run, tmp_path: Path) -> None:
    status, out, err = reproduce(
        "--tables", "table3", *CELL, "seed=0", "relearning.lr=1e38", "baseline=original,none"
    )
    assert status == 1
    assert "1 of 5 wanted runs finished" in out
    assert len(errors(err)) == 4
    for line in errors(err):
        assert "intention=cor" in line
        assert "NaN" in line
    assert len(numbers(tmp_path / "out")) == 1


def test_what_is_finished_is_handed_out_and_counts_elsewhere(
    reproduce: Run, tmp_path: Path
) -> None:
    fig1 = ["--tables", "fig1", *CELL, "--out", str(tmp_path / "small")]
    assert reproduce(*fig1, "--pictures")[0] == 0
    (metrics,) = (tmp_path / "out").rglob("metrics.json")
    (copy,) = (tmp_path / "small").glob("*.json")
    assert copy.name.startswith("7noisymnist-original-demo-")
    assert copy.read_bytes() == metrics.read_bytes()
    pictures = {p.name.rsplit("-", 1)[1] for p in (tmp_path / "small").glob("*.png")}
    assert "confusing.png" in pictures
    again = reproduce(*fig1, "--done", str(tmp_path / "small"), out="other")
    assert again[0] == 0
    assert "1 of 1 wanted runs finished" in again[1]
    assert not (tmp_path / "other").exists()


def test_what_another_process_is_at_is_waited_for(reproduce: Run, tmp_path: Path) -> None:
    """... to the end of the time; should it die before it is finished, the job is ours."""
    (ours,) = expand(["experiment=table3", *ONE[2:], f"output_dir={tmp_path / 'out'}"])
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:
        lock = run_lock(run_folder(resolve(ours)))
        Path(lock.lock_file).parent.mkdir(parents=True)
        with lock:
            held.set()
            ended.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    assert reproduce("--tables", "fig1", *ONE[2:])[0] == 0
    both = ["--tables", "table3", "fig1", *ONE[2:]]
    try:
        status, out, _ = reproduce(*both, budget="8s")
        assert status == 3
        assert "1 of 2 wanted runs finished" in out
        timer = threading.Timer(2.0, ended.set)
        timer.start()
        assert reproduce(*both)[0] == 0
        assert not timer.is_alive()
    finally:
        ended.set()
        other.join()


def test_nothing_is_left_to_do(reproduce: Run, tmp_path: Path) -> None:
    fig1 = ["--tables", "fig1", *CELL]
    assert reproduce(*fig1)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    status, out, err = reproduce(*fig1)
    assert status == 0
    assert "1 of 1 wanted runs finished" in out
    assert "computing" not in err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
