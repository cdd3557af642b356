"""The experiments: what their files say, what they refuse, and that every cell composes."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import yaml

from unlearn.config import tables
from unlearn.config.checks import check
from unlearn.config.compose import CONF, resolve
from unlearn.config.identity import relevant
from unlearn.config.schema import COMPETITORS, Config
from unlearn.config.tables import Cell, list_experiments, load_table, parse_table
from unlearn.errors import UserError

TABLES = {
    "table1": 43,
    "table2": 13,
    "table3": 6,
    "table4": 42,
    "table5": 31,
    "table6": 12,
    "table7": 6,
    "table8": 14,
    "fig1": 1,
    "fig3": 2,
    "fig4": 4,
    "full_lengths": 14,
    "full_width": 9,
    "best": 46,
    "forms": 32,
    "full_data": 68,
    "generators": 18,
    "inversion": 19,
    "one_image": 5,
    "prior": 2,
    "privacy": 9,
    "recipe": 40,
    "same_information": 93,
    "switches": 114,
    "switches_demo": 56,
    "unmatched": 11,
}


def small(**changes: object) -> dict:
    given = {
        "title": "t",
        "measures": ["D_r"],
        "seeds": [0],
        "columns": {"A": "scenario=7mnist", "B": "scenario=class_mnist scenario.digit=9"},
        "rows": {
            "Oracle": {"sets": "baseline=oracle intention=std shot=1.0"},
            "Ours": {"sets": "intention=std shot=1.0", "columns": ["B"], "oracle": "Oracle"},
        },
    }
    return {**given, **changes}


def test_the_paper_is_there_tables_first() -> None:
    assert {name: len(load_table(name).cells()) for name in list_experiments()} == TABLES
    assert list_experiments()[:2] == ["table1", "table2"]


def test_a_cell_is_its_column_and_its_row() -> None:
    cells = parse_table("x", small()).cells()
    assert [(c.row, c.column) for c in cells] == [("Oracle", "A"), ("Oracle", "B"), ("Ours", "B")]
    assert cells[2].overrides == (
        "scenario=class_mnist",
        "scenario.digit=9",
        "intention=std",
        "shot=1.0",
    )


ROW = {"sets": "intention=std"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": 1}, "'colour' is not one of title"),
        ({"seeds": ["0"]}, "seeds: ['0'] is not a list of int"),
        ({"measures": "D_r"}, "measures: 'D_r' is not a list of str"),
        ({"columns": ["A"]}, "columns: ['A'] is not a mapping"),
        ({"columns": {"A": "7mnist"}}, "'7mnist' is not a list of KEY=VALUE"),
        ({"rows": {"Ours": {}}}, "Ours: None is not a list of KEY=VALUE"),
        ({"rows": {"Ours": {**ROW, "column": ["A"]}}}, "did you mean 'columns'"),
        ({"rows": {"Ours": {**ROW, "columns": ["C"]}}}, "'C' is not one of A, B"),
        ({"rows": {"Ours": {**ROW, "oracle": "Oracel"}}}, "'Oracel' is not one of Ours"),
    ],
)
def test_what_a_definition_may_not_be(changes: dict, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_table("x", small(**changes))
    assert words in str(caught.value)
    assert str(caught.value).startswith("experiment/x.yaml")


def test_parts_may_not_lack() -> None:
    given = small()
    del given["rows"]
    with pytest.raises(UserError, match="lacks rows"):
        parse_table("x", given)


def test_unknown_experiments_and_unreadable_files(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match="did you mean 'table1'"):
        load_table("tabel1")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    for text in ("a: [", "a: 1", "hydra: {sweeper: 3}"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=r"experiment/bad\.yaml"):
            load_table("bad")


def test_a_file_names_itself_and_its_definition_stays_out_of_a_jobs_configuration() -> None:
    for name in list_experiments():
        lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert f"experiment: {name}" in lines
        assert {x.split(":")[0] for x in lines if x[:1].isalpha()} == {"experiment", "hydra"}


def test_what_a_cell_says_of_itself() -> None:
    for name in list_experiments():
        for cell in load_table(name).cells():
            said = dict(override.split("=") for override in cell.overrides)
            method = said.get("baseline", "ours")
            knobs, given = {"intention", "shot"}, said.keys() & {"intention", "shot"}
            uses = knobs if method == "ours" else COMPETITORS[method].uses & knobs
            # Where the columns are of an intention, the original has one that it does not use.
            of_column = knobs & {o.split("=")[0] for o in load_table(name).columns[cell.column]}
            assert given - (of_column - uses) == uses, cell
            if method == "logit_mask":
                assert said["scenario"] in ("class_mnist", "truck_cifar10")


def test_rows_are_measured_against_the_oracle_of_their_aim() -> None:
    aims = {"incompetent": "unt", "neutralized": "std", "fisher": "std", "logit_mask": "std"}
    for name in [n for n in list_experiments() if n.startswith("table")]:
        rows = load_table(name).rows
        for label, row in rows.items():
            said = dict(override.split("=") for override in row.sets)
            method = said.get("baseline", "ours")
            if method in ("original", "oracle"):
                assert row.oracle is None
                continue
            assert row.oracle is not None, label
            oracle = dict(override.split("=") for override in rows[row.oracle].sets)
            assert oracle["baseline"] == "oracle"
            assert oracle["intention"] == said.get("intention", aims.get(method))
            assert oracle.get("model.norm") == said.get("model.norm")
            assert set(row.columns) <= set(rows[row.oracle].columns)
            if name == "table5":
                assert oracle["shot"] == said["shot"]


def scale_of(name: str) -> str:
    """The scale that a table is made for; at another one rows may be the same."""
    at = {
        "switches": "small",
        "same_information": "small",
        "full_data": "small",
        "forms": "small",
        "inversion": "paper",
    }
    return at.get(name, "demo")


def test_every_cell_composes_and_no_two_of_a_table_are_the_same() -> None:
    composed: dict[tuple[str, ...], Config] = {}  # composing is slow: once for all shots
    for name in list_experiments():
        found: dict[Cell, dict] = {}
        for cell in load_table(name).cells():
            words = tuple(o for o in cell.overrides if not o.startswith("shot="))
            key = (*words, f"scale={scale_of(name)}")
            if key not in composed:
                composed[key] = resolve([*cell.overrides, key[-1]])
            shots = [o.removeprefix("shot=") for o in cell.overrides if o.startswith("shot=")]
            cfg = replace(composed[key], shot=yaml.safe_load(shots[0])) if shots else composed[key]
            check(cfg)
            found[cell] = relevant(cfg)
        for a, b in combinations(found, 2):
            assert found[a] != found[b], (a, b)


def test_every_row_and_every_column_composes_at_the_larger_scales() -> None:
    seen: set[tuple[str, ...]] = set()
    for name in list_experiments():
        cells = load_table(name).cells()
        for scale, first in (
            ("paper", {c.row: c for c in reversed(cells)}),
            ("small", {c.column: c for c in reversed(cells)}),
        ):
            for cell in first.values():
                words = (
                    *(o for o in cell.overrides if not o.startswith("shot=")),
                    f"scale={scale}",
                )
                if words not in seen:
                    seen.add(words)
                    check(resolve(words))
