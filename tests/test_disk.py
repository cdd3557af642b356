"""What cannot be written: one line, what was finished stays, a sweep's other jobs go on."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from tests.helpers import CELL, errors
from unlearn import pipeline
from unlearn.cli import main
from unlearn.config import resolve
from unlearn.engine import store
from unlearn.engine.store import Store, locked, write_tensors, write_text
from unlearn.errors import UserError
from unlearn.runs import pictures
from unlearn.runs.record import Failure
from unlearn.sweep.launch import Outcome, closing

Run = Callable[..., tuple[int, str, str]]
ORIGINAL = [*CELL, "baseline=original"]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def only_line(err: str) -> str:
    """The one error line, which is the last line, without a trace before it."""
    assert "Traceback" not in err
    assert errors(err) == err.strip().splitlines()[-1:]
    return errors(err)[0]


@pytest.mark.parametrize("sweep", [False, True])
@pytest.mark.parametrize(
    "place", ["", "runs", "runs/7noisymnist", "store", "store/training", "sweeps"]
)
def test_a_file_where_a_folder_should_be(cli: Run, tmp_path: Path, place: str, sweep: bool) -> None:
    path = tmp_path / "out" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    status, _, err = cli(*(["-m"] if sweep else []), *ORIGINAL)
    if place == "sweeps" and not sweep:
        assert status == 0, err
        return
    assert status == 2
    if sweep and place not in ("", "sweeps"):
        assert "0 of 1 jobs finished" in err
    assert "error: " in only_line(err)
    assert "output_dir: " in only_line(err)
    assert str(path) in only_line(err)
    assert path.read_text() == "in the way"


def test_a_folder_where_a_file_should_be(cli: Run, tmp_path: Path) -> None:
    assert cli(*ORIGINAL)[0] == 0
    (run,) = (p for p in (tmp_path / "out").glob("runs/*/*/*") if p.is_dir())
    lock = run.with_name(run.name + ".lock")
    metrics, history = run / "metrics.json", run / "history.csv"
    metrics.unlink()
    lock.unlink(missing_ok=True)
    lock.mkdir()
    assert str(lock) in only_line(cli(*ORIGINAL)[2])
    lock.rmdir()
    history.unlink()
    history.mkdir()
    status, _, err = cli(*ORIGINAL)
    assert status == 2
    assert only_line(err).startswith(f"error: output_dir: {history} cannot be written")
    history.rmdir()
    status, _, err = cli(*ORIGINAL)
    assert status == 0
    assert "training: taken from the store" in err


# What is written after what; the stages before it are kept.
WRITTEN = {
    "config.yaml": ("unlearn.runs.run.write_text", 0),
    "a stage": ("unlearn.engine.store.save_file", 0),
    "weights": ("unlearn.runs.run.write_tensors", 1),
    "history": ("unlearn.pipeline.write_text", 1),
    "pictures": ("unlearn.runs.pictures.Figure.savefig", 1),
    "metrics": ("unlearn.runs.record.write_text", 1),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_a_disk_that_fills_up_while_writing(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    name, kept = WRITTEN[what]
    with monkeypatch.context() as patch:
        patch.setattr(name, full)
        # The note of the failure cannot be written either.
        patch.setattr(Failure, "write", full)
        status, out, err = cli(*ORIGINAL)
    assert status == 2
    assert only_line(err).startswith("error: output_dir: ")
    assert "No space left" in only_line(err)
    assert out == ""
    assert len(list((tmp_path / "out").glob("store/*/*/entry.json"))) == kept
    assert not [p for p in (tmp_path / "out").rglob("*") if "partial" in p.name]
    assert cli(*ORIGINAL)[0] == 0


def test_a_full_disk_fails_one_job_of_a_sweep(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.write_text

    def some(path: Path, text: str) -> None:
        if "incompetent" in str(path):
            full()
        real(path, text)

    monkeypatch.setattr(pipeline, "write_text", some)
    status, _, err = cli("-m", *CELL, "baseline=incompetent,original")
    assert status == 2
    assert "1 of 2 jobs finished" in err
    assert only_line(err).startswith("error: baseline=incompetent: output_dir: ")
    assert len(list((tmp_path / "out").rglob("metrics.json"))) == 1


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    text, tensors = tmp_path / "text", tmp_path / "tensors"
    with file_size_limit(1000):
        with pytest.raises(UserError, match=f"^output_dir: {text} cannot be written .*large"):
            write_text(text, "x" * 2000)
        with pytest.raises(UserError, match=f"^output_dir: {tensors} cannot be written .*large"):
            write_tensors(tensors, {"a": torch.zeros(1000)})
        with pytest.raises(UserError, match=r"^output_dir: .*/stage/\w+ cannot be written .*large"):
            Store(tmp_path / "store").get("stage", {}, lambda: ({"a": torch.zeros(1000)}, {}))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"] == []
    assert not list(tmp_path.rglob("*partial*"))


def test_what_was_there_stays_when_it_cannot_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_text(path, "old")
    with file_size_limit(1000), pytest.raises(UserError):
        write_text(path, "x" * 2000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [SafetensorError("I/O error"), PermissionError(13, "denied")])
def test_errors_of_every_kind_name_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(store, "save_file", refuse)
    with pytest.raises(UserError, match=r"^output_dir: .*tensors cannot be written \("):
        write_tensors(tmp_path / "tensors", {})
    with pytest.raises(UserError, match=r"^--out: "):
        write_text(tmp_path / "none" / "text", "", "--out")


def test_a_lock_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "a.lock").mkdir()
    with (
        pytest.raises(UserError, match=r"^output_dir: .*a\.lock cannot be written"),
        locked(tmp_path / "a.lock"),
    ):
        pass


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    (tmp_path / "pictures").write_text("in the way")
    with pytest.raises(UserError, match=r"^output_dir: .*pictures cannot be written"):
        pictures.save(Figure(), tmp_path / "pictures" / "a.png")


def test_nobody_reads_what_is_printed(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python run.py ... | head -1``: the run is finished all the same."""
    calls = []

    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("unlearn.program.print", closed, raising=False)
    monkeypatch.setattr("unlearn.program.os.dup2", lambda *_: calls.append(1))
    assert cli(*ORIGINAL)[0] == 0
    assert calls == [1]


def test_the_report_names_its_own_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").write_text("")
    words = ["report", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "file" / "report")]
    assert main(words) == 2
    assert only_line(capsys.readouterr().err).startswith("error: --out: ")


def test_a_distance_that_cannot_be_written_costs_no_job(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: object) -> None:
        raise UserError("output_dir", "x cannot be written")

    monkeypatch.setattr("unlearn.runs.run.Run.finished", refuse)
    with caplog.at_level("INFO"):
        assert closing(["job 1"], [resolve(["scale=demo"])], [Outcome()]) == 0
    assert "output_dir: x cannot be written" in caplog.text
    assert "1 of 1 jobs finished" in caplog.text
