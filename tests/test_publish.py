"""Runs that are published, and found finished elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.publish import main
from tests.helpers import TINY


def test_a_sweep_goes_on_from_published_runs(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    words = [*TINY, "baseline=original"]
    assert cli(*words)[0] == 0
    out, day = tmp_path / "out", tmp_path / "published" / "day"
    (run,) = (out / "runs").glob("*/*/*/metrics.json")
    before = json.loads(run.read_text())
    assert main([str(out), str(day)]) == 0
    assert not (day / "store").exists()
    assert main([str(out), str(day), "--originals"]) == 0
    (published,) = (day / "runs").glob("*/*/*.json")
    assert json.loads(published.read_text()) == before
    assert sorted(p.name for p in (day / "store").rglob("*") if p.is_file()) == [
        "entry.json",
        "tensors.safetensors",
    ]
    shutil.rmtree(out)
    assert main(["--back", str(day), str(out)]) == 0
    status, _, said = cli(*words)
    assert status == 0
    assert "finished before" in said
    # Another run rests on the same original.
    shutil.rmtree(out / "runs")
    status, _, said = cli(*words)
    assert "training: taken from the store" in said
    assert json.loads(run.read_text())["metrics"] == before["metrics"]


def test_what_is_there_stays(tmp_path: Path) -> None:
    there = tmp_path / "out" / "runs" / "7mnist" / "original" / "one" / "metrics.json"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    other = tmp_path / "day" / "runs" / "7mnist" / "original" / "one.json"
    other.parent.mkdir(parents=True)
    other.write_text("theirs")
    assert main(["--back", str(tmp_path / "day"), str(tmp_path / "out")]) == 0
    assert there.read_text() == "mine"


def test_only_runs_of_a_scale(tmp_path: Path) -> None:
    for scale in ("demo", "small"):
        file = tmp_path / "out" / "runs" / "7mnist" / "original" / scale / "metrics.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"scale": scale, "stages": {}}))
    assert main([str(tmp_path / "out"), str(tmp_path / "day"), "--scale", "small"]) == 0
    assert [p.name for p in (tmp_path / "day" / "runs").rglob("*.json")] == ["small.json"]


def test_a_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), str(tmp_path / "day")])
    assert "has no folder runs" in capsys.readouterr().err
