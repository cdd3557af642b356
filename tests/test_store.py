"""The stage store: computed once, checked, rebuilt, shared by processes."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import torch

from tests.copies import start
from unlearn.engine.store import Store, fingerprint, hash_of, write_text


def make(value: float, calls: list[int]):
    def compute():
        calls.append(1)
        return {"x": torch.full((3,), value), "n": torch.tensor(7)}, {"seconds": 1.0}

    return compute


def test_computed_once_and_the_same_after(tmp_path: Path) -> None:
    calls: list[int] = []
    store = Store(tmp_path)
    first, _ = store.get("a", {"k": 1}, make(2.0, calls))
    again, remark = store.get("a", {"k": 1}, make(2.0, calls))
    assert len(calls) == 1
    assert remark == {"seconds": 1.0}
    torch.testing.assert_close(first, again)
    store.get("a", {"k": 2}, make(2.0, calls))
    store.get("b", {"k": 1}, make(2.0, calls))
    assert len(calls) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "entry", "no tensors", "no entry"])
def test_a_damaged_entry_is_said_and_rebuilt(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    store = Store(tmp_path)
    store.get("a", {}, make(2.0, calls))
    folder = tmp_path / "a" / hash_of({})
    tensors, entry = folder / "tensors.safetensors", folder / "entry.json"
    content = tensors.read_bytes()
    {
        "flip": lambda: tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1])),
        "cut": lambda: tensors.write_bytes(content[:-4]),
        "entry": lambda: entry.write_text("{"),
        "no tensors": tensors.unlink,
        "no entry": entry.unlink,
    }[damage]()
    with caplog.at_level(logging.WARNING):
        found, _ = store.get("a", {}, make(3.0, calls))
    assert "damaged" in caplog.text
    assert found["x"][0] == 3.0
    assert store.get("a", {}, make(4.0, calls))[0]["x"][0] == 3.0
    assert len(calls) == 2


def test_a_failed_stage_leaves_no_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.get("a", {}, fail)
    calls: list[int] = []
    store.get("a", {}, make(1.0, calls))
    assert calls == [1]


def slow_worker(root: str, log: str) -> None:
    def compute():
        with Path(log).open("a") as file:
            file.write("computed\n")
        time.sleep(1.0)
        return {"x": torch.ones(2)}, {}

    tensors, _ = Store(Path(root)).get("a", {"k": 1}, compute)
    assert tensors["x"].sum() == 2


@pytest.mark.slow
def test_processes_started_side_by_side_compute_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = (str(tmp_path / "s"), str(log))
    worker = start(tmp_path, slow_worker, *arguments)
    while not log.exists() and worker.is_alive():
        time.sleep(0.01)
    slow_worker(*arguments)  # while the other one computes
    worker.join(300)
    assert worker.exitcode == 0
    assert log.read_text() == "computed\n"


def test_fingerprints_tell_names_shapes_types_and_bytes_apart() -> None:
    x = torch.arange(6.0)
    values = [
        {"x": x},
        {"y": x},
        {"x": x.view(2, 3)},
        {"x": x.double()},
        {"x": x + 1},
        {"x": x, "y": x},
    ]
    assert len({fingerprint(v) for v in values}) == len(values)
    assert fingerprint({"x": x.view(2, 3).t().contiguous().t()}) == fingerprint({"x": x.view(2, 3)})


def test_write_text_leaves_only_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "1")
    write_text(tmp_path / "a.json", "2")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "2"
