"""Every bench runs in a tiny form and says what it should."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.bench.__main__ import BENCHES, main
from scripts.bench.measure import Options, Result, Spread, against_the_first, spread_of
from scripts.bench.stages import TRAIN
from scripts.bench.subjects import SCALES, settings, subject

TINY = Options(torch.device("cpu"), "tiny", 1)


def values(result: Result) -> list[float]:
    spreads = [c for row in result.rows for c in row.values() if isinstance(c, Spread)]
    return [v for s in spreads for v in (s.min, s.median, s.max)]


@pytest.mark.parametrize("name", ["data", "fisher", "inversion"])
def test_a_fast_way_is_timed_against_the_usual_one(name: str) -> None:
    results = BENCHES[name](TINY)
    assert results
    for result in results:
        assert result.table().row_count == len(result.rows) >= 2
        assert all(v > 0 and math.isfinite(v) for v in values(result))
        differences = [v for k, v in result.remarks.items() if "difference" in k]
        assert len(differences) == (name != "data")
        assert all(isinstance(d, float) and d <= 1e-4 for d in differences)


def test_every_stage_is_timed_in_every_precision() -> None:
    stages, *wheres = BENCHES["stages"](TINY)
    ways = ["float32", "bfloat16"]
    assert [r["way"] for r in stages.rows] == [
        *(f"training, {way}" for way in ways),
        *(f"inversion, {way}" for way in ways),
        "filtration, float32",
        *(f"relearning, {way}" for way in ways),
    ]
    for row in stages.rows:
        step, steps, seconds = row["ms for one step"], row["steps"], row["seconds of the stage"]
        assert isinstance(step, Spread)
        assert isinstance(steps, int)
        assert row["CPU ms"].min > 0  # type: ignore[union-attr]
        assert seconds == pytest.approx(step.median / 1000 * steps)
    assert len(wheres) == len(ways)
    for where in wheres:
        assert any("convolution" in str(r["operator"]) for r in where.rows)
        assert 0 < sum(float(r["% of all"]) for r in where.rows) <= 100  # type: ignore[arg-type]


def test_a_repair_is_timed_in_the_paper_form_and_the_best() -> None:
    (result,) = BENCHES["repairs"](TINY)
    assert [row["repair"] for row in result.rows] == [
        f"{column}, recipe={recipe}"
        for column in ("7-noisyMNIST, neg", "Truck-CIFAR10, neg")
        for recipe in ("paper", "best")
    ]
    for row in result.rows:
        parts = [row[f"{name}, s"] for name in ("inversion", "filtration", "relearning")]
        assert min(parts) > 0  # type: ignore[type-var]
        assert row["the repair, s"] == pytest.approx(sum(parts))  # type: ignore[arg-type]
        assert row["original, s"] > 0  # type: ignore[operator]
    paper, best, *_ = result.rows
    assert best["relearning, s"] > paper["relearning, s"]  # type: ignore[operator]


def test_a_step_is_timed_for_each_size_and_its_memory_told() -> None:
    (result,) = BENCHES["sizes"](TINY)
    assert [row["image"] for row in result.rows] == ["32x32, float32", "32x32, bfloat16"]
    for row in result.rows:
        assert row["ms a step"].min > 0  # type: ignore[union-attr]
        memory = row["MiB of a step"]
        assert memory == "unknown" or float(memory) >= 0  # type: ignore[arg-type]


def test_every_scale_of_conf_can_be_timed() -> None:
    assert {"demo", "paper", "tiny"} <= set(SCALES)
    for scale, scenario in product(SCALES, ("7noisymnist", "truck_cifar10")):
        cfg = settings(scale, f"scenario={scenario}")
        assert subject(cfg).startswith(cfg.model.name)
        assert cfg.data in TRAIN


def test_ratios_are_taken_turn_by_turn() -> None:
    usual, ours = against_the_first(
        {"usual": [2.0, 6.0], "ours": [1.0, 2.0]}, {"usual": 1, "ours": 2}, "row"
    )
    assert usual["times faster"] == spread_of([1.0, 1.0])
    assert ours["times faster"] == Spread(2, 4.0, 5.0, 6.0)
    assert ours["ms for one row"] == Spread(2, 500.0, 750.0, 1000.0)


def test_what_is_printed_is_written_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = "CPU, 1 thread of A Processor of a Long Name @ 2.60GHz, 48 Cores, of a Server"
    monkeypatch.setattr("scripts.bench.__main__.hardware", lambda device: processor)
    path = tmp_path / "deep" / "bench.json"
    arguments = ["--scale", "tiny", "--repeats", "1", "--only", "fisher", "--json", str(path)]
    main([*arguments, "--threads", "1"])
    content: dict[str, Any] = json.loads(path.read_text())
    assert (content["scale"], content["threads"]) == ("tiny", 1)
    tables = content["benches"]["fisher"]
    out = capsys.readouterr().out
    for table in tables:
        assert table["title"].split(",")[0] in out
        for row in table["rows"]:
            assert row["way"] in out
            assert row["times faster"]["n"] == 1
            assert row["hardware"] == processor
            assert processor in out
    assert [p.name for p in path.parent.iterdir()] == ["bench.json"]
