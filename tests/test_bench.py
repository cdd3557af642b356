"""Every bench runs in a tiny form, and the ways that it compares agree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.bench.__main__ import BENCHES, main
from scripts.bench.measure import Options, Result, Spread, against_the_first, spread_of

TINY = Options(torch.device("cpu"), "tiny", 2)
# The largest difference of results that rounding explains.
AGREE = {
    "data": 1e-4,
    "inversion": 1e-5,
    "computing": 0.02,  # bf16 among them
    "loop": 1e-6,
    "several": 1e-5,
    "fisher": 1e-5,
}


def values(result: Result) -> list[float]:
    spreads = [c for row in result.rows for c in row.values() if isinstance(c, Spread)]
    return [v for s in spreads for v in (s.min, s.median, s.max)]


@pytest.mark.parametrize("name", [n for n in BENCHES if n not in ("several", "stages")])
def test_a_bench_runs_and_its_ways_agree(name: str) -> None:
    results = BENCHES[name](TINY)
    assert results
    for result in results:
        assert result.table().row_count == len(result.rows) >= 2
        assert all(map(math.isfinite, values(result)))
        differences = [v for k, v in result.remarks.items() if "difference" in k]
        assert len(differences) == (name in AGREE)
        assert all(isinstance(d, float) and d <= AGREE[name] for d in differences)


@pytest.mark.parametrize("name", ["several", "stages"])
def test_benches_with_processes_of_their_own(name: str) -> None:
    (result,) = BENCHES[name](TINY)
    if name == "several":
        assert result.remarks["largest difference of the last losses, relative"] <= AGREE[name]
        return
    assert [r["stage"] for r in result.rows] == [
        "training",
        "inversion",
        "filtration",
        "relearning",
    ]
    for row in result.rows:
        assert all(float(row[k]) > 0 for k in ("seconds", "images/s", "GFLOP a step", "peak MiB"))  # type: ignore[arg-type]
        assert 0 < float(row["share of matmul rate"]) < 1  # type: ignore[arg-type]


def test_ratios_are_taken_turn_by_turn() -> None:
    usual, ours = against_the_first(
        {"usual": [2.0, 6.0], "ours": [1.0, 2.0]}, {"usual": 1, "ours": 2}, "row"
    )
    assert usual["times faster"] == spread_of([1.0, 1.0])
    assert ours["times faster"] == Spread(2, 4.0, 5.0, 6.0)
    assert ours["ms for one row"] == Spread(2, 500.0, 750.0, 1000.0)


def test_what_is_printed_is_written_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "bench.json"
    arguments = ["--scale", "tiny", "--repeats", "1", "--only", "fisher", "--json", str(path)]
    main([*arguments, "--threads", "1"])
    content: dict[str, Any] = json.loads(path.read_text())
    assert (content["scale"], content["threads"], content["repeats"]) == ("tiny", 1, 1)
    tables = content["benches"]["fisher"]
    out = capsys.readouterr().out
    for table in tables:
        assert table["title"].split(",")[0] in out
        for row in table["rows"]:
            assert row["way"] in out
            assert row["times faster"]["n"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["bench.json"]
