"""D_r against D_e of all methods of a table, in the HTML report."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import Runs
from unlearn.config.tables import parse_table
from unlearn.report.runs import find_runs
from unlearn.report.scatter import BLUES, looks_of, points, scatter
from unlearn.report.sheet import Sheet, build_table

ROWS = {
    "Original": "baseline=original",
    "Oracle": "baseline=oracle intention=neg shot=1.0",
    "DELETE (3%)": "baseline=delete intention=neg shot=0.03",
    "DELETE (1 image)": "baseline=delete intention=neg shot=1img",
    "Ascent (3%)": "baseline=ascent intention=neg shot=0.03",
    "Ours (3%)": "intention=neg shot=0.03",
}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def sheet_of(
    runs: Runs,
    measures: tuple[str, ...] = ("D_r", "D_e"),
    rows: dict[str, str] = ROWS,
    scale: str = "demo",
) -> Sheet:
    table = parse_table(
        "x",
        {
            "title": "t",
            "measures": list(measures),
            "seeds": [0, 1],
            "columns": {"A": "scenario=7mnist", "B": "scenario=7noisymnist"},
            "rows": {row: {"sets": sets} for row, sets in rows.items()},
        },
    )
    return build_table(table, scale, find_runs([runs.root]))


def leave(runs: Runs, row: str, *accuracies: tuple[float, float]) -> None:
    for seed, (d_r, d_e) in enumerate(accuracies):
        words = ["scenario=7mnist", *ROWS[row].split()]
        runs.leave(*words, seed=seed, metrics={"D_r": d_r, "D_e": d_e})


def test_a_point_is_the_accuracies_of_a_row(runs: Runs) -> None:
    leave(runs, "Oracle", (0.99, 0.02))
    leave(runs, "DELETE (3%)", (0.9, 0.1), (0.8, 0.3))
    sheet = sheet_of(runs)
    found = points(sheet, "A")
    assert list(found) == ["Oracle", "DELETE (3%)"]
    assert found["DELETE (3%)"] == [pytest.approx((10, 90)), pytest.approx((30, 80))]
    assert points(sheet, "B") == {}
    text = scatter(sheet)
    assert text is not None
    assert text.count(">A<") == 1
    assert ">B<" not in text  # nothing is there
    assert "DELETE (3%)" in text
    assert "Ascent (3%)" not in text


def test_nothing_to_compare_is_no_chart(runs: Runs) -> None:
    leave(runs, "Oracle", (0.99, 0.02))
    assert scatter(sheet_of(runs)) is None
    leave(runs, "DELETE (3%)", (0.9, 0.1))
    assert scatter(sheet_of(runs)) is not None
    assert scatter(sheet_of(runs, ("D_r", "norm_D_e"))) is None


def test_a_colour_is_a_method_and_a_shape_a_number_of_shots(runs: Runs) -> None:
    looks = looks_of(sheet_of(runs))
    three, one = looks["DELETE (3%)"], looks["DELETE (1 image)"]
    assert three.colour == one.colour != looks["Ascent (3%)"].colour
    assert three.shape == looks["Ascent (3%)"].shape == looks["Ours (3%)"].shape != one.shape
    assert looks["Ours (3%)"].colour == BLUES[0]
    assert [row for row, look in looks.items() if look.shape == "*"] == ["Oracle"]
    assert looks["Original"].shape == "x"


def test_each_recipe_fills_its_own_row(runs: Runs) -> None:
    rows = {name: f"recipe={name} intention=neg shot=0.03" for name in ("paper", "best", "fast")}
    for number, sets in enumerate(rows.values()):
        accuracies = {"D_r": 0.9, "D_e": 0.1 * number}
        runs.leave("scenario=7mnist", *sets.split(), "scale=small", metrics=accuracies)
    found = points(sheet_of(runs, rows=rows, scale="small"), "A")
    assert {row: seeds[0][0] for row, seeds in found.items()} == pytest.approx(
        {"paper": 0, "best": 10, "fast": 20}
    )
