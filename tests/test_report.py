"""The report: which runs fill which cells, what is said of them, and the files it makes."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from tests.helpers import NINE, Runs
from unlearn.config.compose import resolve
from unlearn.config.identity import relevant
from unlearn.config.tables import list_experiments, load_table
from unlearn.filtration import FiltrationConfig
from unlearn.report.__main__ import main
from unlearn.report.answers import ORIGINAL, answers
from unlearn.report.html import page
from unlearn.report.match import composed, departures, fill, fits
from unlearn.report.measures import EXTRAS, measure
from unlearn.report.paper import Printed, paper_tables
from unlearn.report.readme import compact
from unlearn.report.runs import Found, Run, find_runs, flat
from unlearn.report.sheet import build
from unlearn.report.text import difference, latex, markdown, ours

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "outputs" / "published" / "2026-11-23-cpu-2-cores"


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


# --- the paper's numbers


def test_the_papers_numbers_are_all_there() -> None:
    counts = {name: len(table.values) for name, table in paper_tables().items()}
    assert counts == dict(
        zip([f"table{i}" for i in range(1, 9)], [84, 52, 12, 78, 62, 24, 12, 52], strict=True)
    )
    assert sum(counts.values()) == 376


def test_the_papers_places_are_the_experiments() -> None:
    for name, paper in paper_tables().items():
        table = load_table(name)
        ours_too = {(c.row, c.column, m) for c in table.cells() for m in table.measures}
        assert {row for row, _, _ in ours_too - set(paper.values)} <= {"Logit mask"}
        assert set(paper.values) <= ours_too


def test_the_papers_digits_and_ranges() -> None:
    for name, paper in paper_tables().items():
        for (row, _, key), printed in paper.values.items():
            two = name in ("table5", "table6", "table7") or (name == "table8" and "norm" in key)
            assert printed.decimals == (2 if two else 1), (name, row, key)
            assert 0 <= printed.mean <= (100 if measure(key).unit == "%" else 30)
            spread = row.startswith("Ours") or row in ("Incompetent", "Neutralized", "Fisher")
            accuracy = key in ("D_r", "D_e")
            assert (printed.std is not None) == ("norm" in key or (accuracy and spread))


def test_what_the_papers_text_says_of_its_numbers() -> None:
    values = {name: table.values for name, table in paper_tables().items()}
    one, two, five = values["table1"], values["table2"], values["table5"]
    for key in ("D_r", "D_e"):
        full = values["table3"]["Ours_cor (tar, aug, bn)", "7-noisyMNIST", key]
        assert full == one["Ours_cor", "7-noisyMNIST", key]
        nine = values["table7"]["Original", "9-MNIST", key]
        assert nine == values["table6"]["Original_BN", "9-MNIST", key]
        # Table 5 has Table 1's means with a digit more, but for Ours_unt: a contradiction.
        for share, label in (("100%", ""), ("3%", " (3%)")):
            for method in ("Ours_std", "Ours_unt", "Ours_neg"):
                fine = five[f"{method} ({share})", "7-MNIST", key].mean
                coarse = one[f"{method}{label}", "7-MNIST", key].mean
                assert (abs(fine - coarse) <= Decimal("0.05")) == (method != "Ours_unt")
        # Tables 4, 6 and 7 share runs on nine.
        for row, name, other in (
            ("Ours_neg", "table6", "Ours_BN"),
            ("Ours_neg (3%)", "table6", "Ours_BN (3%)"),
            ("Ours_std", "table7", "Ours_std"),
            ("Ours_std (3%)", "table7", "Ours_std (3%)"),
        ):
            gap = (
                values["table4"][row, "9-MNIST", key].mean
                - values[name][other, "9-MNIST", key].mean
            )
            assert abs(gap) <= Decimal("0.05")
    # "only Neutralized fails to hide D_e since its accuracy on D_e is as high as Original"
    hidden = {
        row: v.mean for (row, column, key), v in one.items() if (column, key) == ("7-MNIST", "D_e")
    }
    assert hidden["Neutralized"] >= hidden["Original"]
    assert all(hidden[row] < hidden["Original"] for row in ("Incompetent", "Fisher", "Ours_unt"))
    # "noticeably small L2 norm on D_e": Oracle_unt, Ours_unt, Incompetent.
    norms = {row: v.mean for (row, _, key), v in two.items() if key == "norm_D_e"}
    small = {"Oracle_unt", "Ours_unt", "Ours_unt (3%)", "Incompetent"}
    assert max(norms[row] for row in small) < min(v for row, v in norms.items() if row not in small)
    # Appendix E: who has a relatively small ASR on nine.
    asr = {row: v.mean for (row, _, key), v in values["table8"].items() if key == "asr_D_e"}
    low = {row for row, v in asr.items() if v < 50}
    assert low == {
        "Oracle_unt",
        "Incompetent",
        "Ours_std",
        "Ours_unt",
        "Ours_std (3%)",
        "Ours_unt (3%)",
    }
    assert any("Table 5" in note for note in paper_tables()["table1"].notes)


def test_the_band_is_the_papers_std_or_half_a_unit() -> None:
    assert Printed(Decimal("99.3"), Decimal("0.2")).band == Decimal("0.2")
    assert Printed(Decimal("99.3"), Decimal("0.0")).band == Decimal("0.05")
    assert Printed(Decimal("99.50"), None).band == Decimal("0.005")
    assert str(Printed(Decimal("99.50"), Decimal("0.1"))) == "99.50 ± 0.1"


# --- which runs fill which cells


@pytest.mark.slow
def test_a_run_fills_its_cell_in_every_table_whatever_ran_it(runs: Runs) -> None:
    runs.leave(*NINE, "intention=std", "shot=1.0", experiment="table7")
    runs.leave(*NINE, "intention=std", "shot=0.03")
    for name in ("table7", "table8"):
        filled = {cell for cell, f in runs.sheet(name).filled.items() if f.runs}
        assert filled == {("Ours_std", "9-MNIST"), ("Ours_std (3%)", "9-MNIST")}
    assert not runs.sheet("table2").runs


@pytest.mark.parametrize(
    "apart",
    [
        "model.norm=layer",
        "intention.scrub_epochs=0",
        "inversion.weights.bn=0",
        "training.lr=0.3",
        "model.width=8",
        "model=preact_resnet18",
        "scenario.digit=8",
        "shot=0.1",
        "scale=paper",
        "baseline=original",
        "proxy=noise",
    ],
)
def test_what_sets_another_cell_apart_does_not_fill_this_one(runs: Runs, apart: str) -> None:
    runs.leave(*NINE, "intention=std", "shot=1.0", apart)
    sheet = runs.sheet("table7")
    assert not sheet.filled["Ours_std", "9-MNIST"].runs


def test_other_settings_may_differ_and_are_reported(runs: Runs) -> None:
    runs.leave(*NINE, "intention=std", "shot=1.0", "inversion.steps=25", "model.width=4")
    sheet = runs.sheet("table7")
    assert len(sheet.filled["Ours_std", "9-MNIST"].runs) == 1
    assert sheet.remarks[0] == (
        "Settings other than conf/'s: inversion.steps 25 (conf/: 900) in 1 of 1 runs; "
        "model.width 4 (conf/: 16) in 1 of 1 runs."
    )


def test_watching_the_predictions_changes_nothing_but_where_it_is_asked_for(runs: Runs) -> None:
    oracle = ("scenario=7mnist", "baseline=oracle", "intention=std", "shot=1.0")
    runs.leave(*oracle)
    assert not runs.sheet("fig4").runs
    runs.leave(*oracle, "track_predictions=true", seed=1)
    assert [run.seed for run in runs.sheet("fig4").runs] == [1]
    table = runs.sheet("table2")
    assert [run.seed for run in table.runs] == [0, 1]
    assert not any("track" in remark for remark in table.remarks)


def test_of_several_runs_the_one_with_confs_own_settings_then_the_newest(runs: Runs) -> None:
    cell = (*NINE, "intention=std", "shot=1.0")
    runs.leave(*cell, "inversion.steps=25", metrics={"D_r": 0.1}, finished="2026-11-23T12")
    runs.leave(*cell, metrics={"D_r": 0.2}, finished="2026-11-23T10")
    runs.leave(*cell, metrics={"D_r": 0.3}, finished="2026-11-23T11")
    runs.leave(*cell, "inversion.steps=25", seed=1, metrics={"D_r": 0.4}, finished="2026-11-23T11")
    runs.leave(*cell, "inversion.steps=26", seed=1, metrics={"D_r": 0.5}, finished="2026-11-23T10")
    sheet = runs.sheet("table7")
    chosen = sheet.filled["Ours_std", "9-MNIST"]
    assert [run.metrics["D_r"] for run in chosen.runs] == [0.3, 0.4]
    assert chosen.left_out == 3
    assert "Left out: 3 more runs" in " ".join(sheet.remarks)


def test_a_failure_counts_until_a_run_of_its_seed_succeeds(runs: Runs) -> None:
    cell = (*NINE, "intention=std", "shot=1.0")
    runs.leave(*cell, error="relearning: it broke")
    runs.leave(*cell, seed=1, error="relearning: it broke again", finished="2026-11-23T11")
    runs.leave(*cell, seed=1, error="relearning: an older one", finished="2026-11-23T09")
    sheet = runs.sheet("table7")
    assert sheet.status("Ours_std", "9-MNIST") == "failed"
    errors = {run.seed: run.content["error"] for _, run in sheet.failures}
    assert errors == {0: "relearning: it broke", 1: "relearning: it broke again"}
    runs.leave(*cell)
    sheet = runs.sheet("table7")
    assert [(run.seed, run.content["error"]) for _, run in sheet.failures] == [
        (1, "relearning: it broke again")
    ]
    assert sheet.counts == (1, 6)


def test_files_are_found_at_any_depth_and_once(runs: Runs, tmp_path: Path) -> None:
    folder = runs.leave(*NINE, "baseline=original", seed=None, pictures=("samples",))
    published = tmp_path / "runs" / "published" / "day"
    published.mkdir(parents=True)
    shutil.copy(folder / "metrics.json", published / "nine.json")
    (published / "old.json").write_text('{"metrics": {"D_r": 1}}')
    (published / "broken.json").write_text('{"metrics": ')
    (published / "other.json").write_text('{"seeds": []}')
    (published / "list.json").write_text("[1]")
    found = find_runs([runs.root, published])
    assert len(found.runs) == 2
    assert sorted(path.name for path in found.skipped) == ["broken.json", "old.json"]
    # A published file has no run folder of its own.
    assert {run.picture("samples") is None for run in found.runs} == {True, False}
    cell = load_table("table7").cells()[0]
    filled = fill(cell, "demo", found)
    assert (len(filled.runs), filled.left_out, filled.runs[0].seed) == (1, 1, None)


def test_a_recipe_is_what_it_sets() -> None:
    cells = {c.row: c for c in load_table("best").cells() if c.column == "7-MNIST"}
    rows = ("Ours_neg (3%)", "Best_neg (3%)", "Ours_neg (1 image)", "Best_neg (1 image)")
    found = Found(
        [
            Run(Path(row), {"seed": 0, "metrics": {}}, flat(json.loads(json.dumps(relevant(cfg)))))
            for row in rows
            for cfg in [resolve([*cells[row].overrides, "scale=paper"])]
        ]
    )
    for row in rows:
        filled = fill(cells[row], "paper", found)
        assert [str(run.path) for run in filled.runs] == [row]
        assert filled.left_out == 0
        assert not filled.departures


def test_a_setting_newer_than_a_run_departs_unless_it_is_off() -> None:
    wanted = {"filtration.majority": None, "filtration.bandwidths": [1.0], "seed": 0}
    old = Run(Path("old"), {}, {"filtration.bandwidths": [1.0], "seed": 3})
    assert departures(old, wanted) == []
    assert departures(old, wanted | {"filtration.majority": 0.8, "filtration.bandwidths": [2]}) == [
        "filtration.bandwidths [1.0] (conf/: [2])",
        "filtration.majority null (conf/: 0.8)",
    ]
    # A default is what the code did before there was a setting.
    off = FiltrationConfig().drop_unmatched
    assert departures(old, wanted | {"filtration.drop_unmatched": off}) == []
    assert departures(old, wanted | {"filtration.drop_unmatched": not off}) != []


def test_an_older_run_does_not_fill_a_cell_that_sets_what_it_lacks() -> None:
    cells = {c.row: c for c in load_table("switches_demo").cells() if c.column == "7-MNIST, neg"}
    cell = cells["Unmatched samples dropped"]
    wanted = composed(cell.overrides, "demo")
    older = {k: v for k, v in wanted.items() if k != "filtration.drop_unmatched"}
    sets = {"filtration.drop_unmatched"}
    assert not fits(Run(Path("old"), {}, older), wanted, sets)
    assert fits(Run(Path("new"), {}, wanted), wanted, sets)


@pytest.mark.parametrize(
    ("chosen", "computed", "asks", "departs"),
    [
        ("auto", "float32", "fp32", False),
        ("auto", "bfloat16", "fp32", True),
        ("auto", "float32", "auto", False),
        ("bf16", "bfloat16", "auto", True),
    ],
)
def test_precision_counts_as_it_was_chosen(
    chosen: str, computed: str, asks: str, departs: bool
) -> None:
    run = Run(Path("run"), {"precision": computed}, {"precision": chosen})
    assert bool(departures(run, {"precision": asks})) == departs


# --- runs of older versions


def old_content(**config: object) -> dict[str, Any]:
    """What version 0.3 wrote."""
    return {
        "seed": 0,
        "config": config,
        "metrics": {"D_r": 0.9, "D_e": 0.1},
        "hardware": "CPU, 1 threads of a processor",
        "computed_in": "float32",
        "versions": {"commit": "abc1234+", "few-shot-unlearning": "0.3.1"},
    }


def test_an_older_run_is_read_as_one_of_today(tmp_path: Path) -> None:
    for old in (
        resolve(["scale=demo", "scenario=7mnist", "intention=neg", "shot=1.0"]),
        resolve(["scale=demo", "scenario=7mnist", "intention=neg", "baseline=oracle", "shot=1.0"]),
        resolve(["scale=demo", "scenario=7mnist", "intention=std", "baseline=oracle", "shot=1.0"]),
    ):
        settings = json.loads(json.dumps(relevant(old)))
        config = json.loads(json.dumps(settings))
        if old.baseline is None:
            config["relearning"]["negative"] = "second"
            del config["intention"]["oracle_form"]
        else:
            config["baseline"]["negative"] = "complementary"
            config["intention"] = {"name": old.intention.name}
        (tmp_path / "old.json").write_text(json.dumps(old_content(**config)))
        (run,) = find_runs([tmp_path]).runs
        assert departures(run, flat(settings)) == []
        assert (run.version, run.threads, run.precision, run.stages) == (
            "0.3.1 (commit abc1234+)",
            1,
            "float32",
            {},
        )
        assert run.content["hardware"] == "CPU, 1 thread of a processor"


@pytest.mark.slow
def test_the_published_runs_fill_the_cells_that_they_filled_before() -> None:
    """The published report was written by the version that made them."""
    found = find_runs([PUBLISHED / "study" / "mnist5k"])
    now = markdown([build("table8", "demo", found)], 0)
    then = (PUBLISHED / "report-demo.md").read_text()
    then = then[then.index("## Table 8") :]
    rows = [[x for x in text.splitlines() if x.startswith("| ")] for text in (then, now)]
    assert len(rows[0]) == 15
    assert rows[0] == rows[1]


# --- what cells rest on

KEYS = ("aaaaaaaa11111111", "bbbbbbbb22222222")


def made(key: str | None, version: int = 1, **more: int) -> dict[str, Any]:
    """The stages of a run; without a key it does not name its original."""
    first = {} if key is None else {"training": {"key": key, "version": version, "seconds": 1}}
    others = {name: {"key": "c" * 16, "version": v, "seconds": 1} for name, v in more.items()}
    return {"stages": first | others}


STD, STD_FEW = (*NINE, "intention=std", "shot=1.0"), (*NINE, "intention=std", "shot=0.03")


def test_one_original_behind_a_column_needs_no_words(runs: Runs) -> None:
    for seed in (0, 1):
        runs.leave(*STD, seed=seed)
        runs.leave(*STD_FEW, seed=seed)
    assert runs.sheet("table7").origins == []


def test_different_originals_are_said_and_their_cells_named(runs: Runs) -> None:
    runs.leave(*NINE, "baseline=original", seed=None, **made(KEYS[0]))
    runs.leave(*STD, **made(KEYS[0]))
    runs.leave(*STD, seed=1, **made(KEYS[1]))
    runs.leave(*STD_FEW, **made(KEYS[1]))
    # An oracle rests on no original.
    runs.leave(*NINE, "baseline=oracle", "intention=std", "shot=1.0", **made("dddddddd33333333"))
    sheet = runs.sheet("table7")
    assert sheet.origins == [
        "Different originals in one column. 9-MNIST: Original, Ours_std seed 0 on one (aaaaaaaa); "
        "Ours_std seed 1, Ours_std (3%) on another (bbbbbbbb)."
    ]
    assert sheet.remarks[0] == sheet.origins[0]
    assert "on another" in markdown([sheet], 0)
    assert "on another" in latex([sheet])
    assert "on another" in compact(sheet)
    assert "on another" in page([sheet], "demo", 0)


@pytest.mark.slow
def test_columns_and_other_networks_have_originals_of_their_own(runs: Runs) -> None:
    neg = ("intention=neg", "shot=1.0")
    runs.leave("scenario=class_mnist", "scenario.digit=9", *neg, **made(KEYS[0]))
    runs.leave("scenario=class_mnist", "scenario.digit=8", *neg, **made(KEYS[1]))
    assert runs.sheet("table4").counts[0] == 2
    assert runs.sheet("table4").origins == []
    # Table 6 has a network with other layers in each row.
    runs.leave(*NINE, "model.norm=layer", *neg, **made(KEYS[1]))
    assert runs.sheet("table6").counts[0] == 2
    assert runs.sheet("table6").origins == []


def test_an_original_that_was_trained_otherwise_is_another(runs: Runs) -> None:
    runs.leave(*STD, **made(KEYS[0]))
    runs.leave(*STD_FEW, "training.epochs=3", **made(KEYS[1]))
    assert runs.sheet("table7").origins[0].startswith("Different originals in one column. 9-MNIST")


def test_originals_of_two_processors_share_a_key(runs: Runs) -> None:
    """A training is named by its settings, and another processor gives other weights."""
    here, there = ({"original_D_r": d_r, "original_D_e": 0.96} for d_r in (0.981, 0.982))
    runs.leave(
        *NINE, "baseline=original", seed=None, metrics={"D_r": 0.981, "D_e": 0.96}, **made(KEYS[0])
    )
    runs.leave(*STD, metrics={"D_r": 0.9} | here, **made(KEYS[0]))
    assert runs.sheet("table7").origins == []
    runs.leave(*STD_FEW, metrics={"D_r": 0.9} | there, **made(KEYS[0]))
    assert runs.sheet("table7").origins == [
        "Different originals in one column. 9-MNIST: Ours_std (3%) on one "
        "(aaaaaaaa: D_r 98.20, D_e 96.00); Original, Ours_std on another "
        "(aaaaaaaa: D_r 98.10, D_e 96.00)."
    ]


def test_what_is_unknown_of_originals_is_said(runs: Runs) -> None:
    first = {"D_r": 0.9, "original_D_r": 0.98, "original_D_e": 0.96}
    runs.leave(*STD, metrics=first, **made(None))
    runs.leave(*STD_FEW, metrics=first, **made(None))
    assert runs.sheet("table7").origins == [
        "Whether each column rests on one original is unknown: 2 of 2 runs do not name theirs; "
        "the originals' accuracies are the same within each column."
    ]
    runs.leave(*STD_FEW, seed=1, metrics=first | {"original_D_e": 0.97}, **made(None))
    assert runs.sheet("table7").origins == [
        "Different originals in one column. 9-MNIST: Ours_std (3%) seed 1 on one "
        "(D_r 98.00, D_e 97.00); Ours_std, Ours_std (3%) seed 0 on another (D_r 98.00, D_e 96.00). "
        "Whether there are more is unknown: 3 of 3 runs do not name theirs; the originals' "
        "accuracies alone tell them apart."
    ]


def test_different_ways_of_computing_are_said(runs: Runs) -> None:
    cpu = {"hardware": "CPU, 1 thread of a processor"}
    runs.leave(*STD, **cpu, **made(KEYS[0], inversion=1), measured=1)
    assert runs.sheet("table7").origins == []
    runs.leave(
        *STD,
        seed=1,
        **cpu | {"threads": 2, "precision": "bfloat16"},
        **made(KEYS[0], inversion=2),
        measured=2,
    )
    assert runs.sheet("table7").origins == [
        "Computed in different ways, in runs: threads of the CPU 1 in 1, 2 in 1; precision "
        "bfloat16 in 1, float32 in 1; version of inversion 1 in 1, 2 in 1; version of evaluation "
        "1 in 1, 2 in 1."
    ]


def test_threads_of_a_gpus_run_do_not_count(runs: Runs) -> None:
    for seed in (0, 1):
        runs.leave(*STD, seed=seed, hardware="NVIDIA H100", threads=seed + 1)
    assert runs.sheet("table7").origins == []


# --- numbers and marks


def test_mean_sample_std_and_number_of_seeds(runs: Runs) -> None:
    shares = (0.98, 0.985, 0.991)
    for seed, share in enumerate(shares):
        runs.leave(*NINE, "intention=std", "shot=1.0", seed=seed, metrics={"D_r": share})
    runs.leave(*NINE, "baseline=original", seed=None, metrics={"D_r": 0.9971, "D_e": 0.9})
    sheet = runs.sheet("table7")
    value = sheet.entries["Ours_std", "9-MNIST", "D_r"].value
    assert value is not None
    assert value.mean == pytest.approx(100 * sum(shares) / 3)
    assert value.std == pytest.approx(100 * stdev(shares))
    assert ours(sheet.entries["Ours_std", "9-MNIST", "D_r"]) == "98.53 ± 0.55 (3)"
    assert ours(sheet.entries["Original", "9-MNIST", "D_r"]) == "99.71 (1)"
    assert ours(sheet.entries["Ours_std", "9-MNIST", "D_e"]) == ""
    assert sheet.status("Ours_std", "9-MNIST") == "not measured"
    assert sheet.status("Oracle_std", "9-MNIST") == "not run"
    assert "n = 1 to 3" in sheet.facts


def test_a_norms_spread_is_over_images(runs: Runs) -> None:
    for seed in (0, 1):
        metrics = {"norm_D_e": 15.0 + seed, "norm_D_e_std": 1.0 + seed}
        runs.leave(
            *NINE, "baseline=oracle", "intention=std", "shot=1.0", seed=seed, metrics=metrics
        )
    sheet = runs.sheet("table8")
    assert ours(sheet.entries["Oracle_std", "9-MNIST", "norm_D_e"]) == "15.50 ± 1.50 (2)"
    assert "over images" in sheet.facts
    assert "over images" not in runs.sheet("table7").facts


@pytest.mark.parametrize(
    ("share", "outside", "shown"),
    [
        (0.9853, False, "0.00"),
        (0.9864, False, "+0.11"),  # the paper: 98.53 ± 0.11
        (0.9842, False, "\u22120.11"),
        (0.9865, True, "+0.12"),
    ],
)
def test_outside_the_papers_band(runs: Runs, share: float, outside: bool, shown: str) -> None:
    runs.leave(*NINE, "intention=std", "shot=1.0", metrics={"D_r": share})
    entry = runs.sheet("table7").entries["Ours_std", "9-MNIST", "D_r"]
    assert (entry.outside, difference(entry)) == (outside, shown)
    assert entry.nearer is False  # our oracle has not run


def test_nearer_to_the_oracle_than_the_papers(runs: Runs) -> None:
    # The paper: Oracle_std 99.52, Ours_std 98.53, so 0.99 apart; D_e 0.00 and 0.00.
    oracle = (*NINE, "baseline=oracle", "intention=std", "shot=1.0")
    runs.leave(*oracle, metrics={"D_r": 0.97, "D_e": 0.0})
    runs.leave(*NINE, "intention=std", "shot=1.0", metrics={"D_r": 0.9602, "D_e": 0.0})
    runs.leave(*NINE, "intention=std", "shot=0.03", metrics={"D_r": 0.9600, "D_e": 0.0})
    entries = runs.sheet("table7").entries
    assert entries["Ours_std", "9-MNIST", "D_r"].nearer
    assert not entries["Ours_std (3%)", "9-MNIST", "D_r"].nearer
    assert not entries["Ours_std", "9-MNIST", "D_e"].nearer  # nothing is nearer than none
    assert entries["Ours_std", "9-MNIST", "D_r"].marks == "†★"


def test_the_tug_of_war_has_a_t_interval(runs: Runs) -> None:
    now = {"D_r": 0.9, "D_e": 0.0, "oracle_abs_train_D_e": 0.0}
    for seed, value in enumerate((0.8, 0.9, 1.0)):
        metrics = {**now, "tug_of_war": value}
        runs.leave(*NINE, "intention=std", "shot=1.0", seed=seed, metrics=metrics)
    runs.leave(*NINE, "intention=std", "shot=0.03", metrics={**now, "tug_of_war": 0.7})
    entries = runs.sheet("table7").entries
    # 0.9 plus and minus 4.303 (two degrees of freedom) times 0.1 / sqrt(3).
    assert ours(entries["Ours_std", "9-MNIST", "tug_of_war"]) == "0.900 [0.652, 1.148] (3)"
    assert ours(entries["Ours_std (3%)", "9-MNIST", "tug_of_war"]) == "0.700 (1)"


def test_a_tug_of_war_of_two_factors_is_left_out(runs: Runs) -> None:
    old = {"D_r": 0.9, "D_e": 0.0, "tug_of_war": 0.9}
    runs.leave(*NINE, "intention=std", "shot=1.0", metrics=old)
    assert runs.sheet("table7").extras == ()
    assert [set(run.metrics) for run in find_runs([runs.root]).runs] == [{"D_r", "D_e"}]


def test_answers_by_class_are_shown(runs: Runs) -> None:
    for seed, nines in ((0, 3.0), (1, 4.0)):
        metrics = {"D_r": 0.9, "D_e": 0.0, "answers_before_9": 25.0, "answers_before_7": 0.0}
        metrics |= {"answers_after_9": nines, "answers_after_7": 25 - nines, "answers_after_1": 0.0}
        runs.leave(*NINE, "intention=std", "shot=1.0", seed=seed, metrics=metrics)
    sheet = runs.sheet("table7")
    (found,) = answers(sheet)
    assert found.column == "9-MNIST"
    assert found.classes == ["7", "9"]  # in the data's order; nothing is called 1
    assert found.rows == {ORIGINAL: [0.0, 25.0], "Ours_std": [21.5, 3.5]}
    text = page([sheet], "demo", 0)
    assert "<td>21.5</td><td>3.5</td>" in text
    assert "Answers on the test D<sub>e</sub> by class" in text


def test_measures_and_their_units() -> None:
    shown = {key: (m.label, m.unit) for key in EXTRAS for m in [measure(key)]}
    assert shown["oracle_js"] == ("Jensen-Shannon divergence from the oracle", "nats")
    assert shown["mia_D_r_tpr_at_1_fpr"] == ("attack's TPR at 1 % FPR D_r", "%")
    assert shown["mia_D_e_auc"] == ("attack's AUC D_e", "")
    assert shown["probe_D_e_less_oracle"] == ("linear probe less the oracle's D_e", "points")
    assert shown["rmia_auc"] == ("RMIA's AUC", "")
    assert {m.label for key in EXTRAS for m in [measure(key)]}.isdisjoint(EXTRAS)
    assert measure("answers_after_7").factor == 1
    assert measure("norm_D_r").factor == 1
    assert measure("asr_D_r").factor == 100


# --- the files

SHOWN = ["table7", "table8", "fig3", "fig4"]
HONEST = {"oracle_agreement": 0.97, "oracle_js": 0.0123, "mia_D_e_auc": 0.512}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report over a few runs: done, failed, missing, extra overrides."""
    root = tmp_path_factory.mktemp("report")
    runs = Runs(root / "runs")
    std = (*NINE, "intention=std", "shot=1.0")
    runs.leave(*NINE, "baseline=original", seed=None, metrics={"D_r": 0.9971, "D_e": 0.9931})
    for seed in (0, 1):
        runs.leave(
            *std,
            seed=seed,
            metrics={"D_r": 0.98 + 0.01 * seed, "D_e": 0.0, "asr_D_e": 0.2, **HONEST},
            pictures=("samples", "knee"),
            hardware=f"machine <{seed}>",
            commit="abc1234",
        )
    runs.leave(*std, "intention.scrub_epochs=0", error="filtration: 5 % <b>nothing</b> is like it")
    runs.leave(*NINE, "intention=std", "shot=0.03", "inversion.steps=25")
    neg = ("scenario=7mnist", "intention=neg", "shot=1.0")
    runs.leave(*neg, pictures=("filtration", "knee", "samples"))
    runs.leave(
        *("scenario=7mnist", "baseline=oracle", "intention=std", "shot=1.0"),
        "track_predictions=true",
        predictions={
            "retraining": {"epoch": [1, 2], "counts": [[9, 16] + [0] * 8, [5, 20] + [0] * 8]}
        },
    )
    (runs.root / "old.json").write_text('{"metrics": {}}')
    status = main(["--runs", str(runs.root), "--out", str(root / "out"), "--tables", *SHOWN])
    assert status == 0
    return root / "out"


@pytest.mark.slow
def test_the_scale_is_that_of_the_runs(report: Path) -> None:
    names = {path.name for path in report.iterdir()}
    assert names == {f"report-demo.{suffix}" for suffix in ("html", "md", "tex", "csv")}


def test_markdown(report: Path) -> None:
    text = (report / "report-demo.md").read_text()
    assert (
        "| Ours_std | 98.50 ± 0.71 (2)<br>paper 98.53 ± 0.11<br>\u22120.03 | 0.00 ± 0.00 (2)"
        in text
    )
    assert "| Original | 99.71 (1)<br>paper 99.71<br>0.00 | 99.31 (1)" in text
    assert "| Ours_std-scrub | -- failed<br>paper 99.18 ± 0.21 |" in text
    assert "| Oracle_std | -- not run<br>paper 99.52 |" in text
    assert "- failed: Ours_std-scrub, 9-MNIST, seed 0: filtration: 5 % <b>nothing</b>" in text
    assert "inversion.steps 25 (conf/: 900) in 1 of 4 runs" in text
    assert "left aside: 1 JSON files" in text
    assert "Hardware: a machine; machine <0>; machine <1>" in text
    assert "Version: 1.2.3; 1.2.3 (commit abc1234)" in text
    assert "Scale demo" in text
    table = text[text.index("## Table 7") : text.index("## Table 8")]
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {4}


def test_latex(report: Path) -> None:
    text = (report / "report-demo.tex").read_text()
    assert text.count("\\begin{table*}") == text.count("\\end{table*}") == len(SHOWN)
    assert "Ours$_{\\mathrm{std}}$ & \\shortstack{98.50 $\\pm$ 0.71 (2) \\\\ \\tiny" in text
    assert "Ours$_{\\mathrm{std-scrub}}$ (3\\%) & \\shortstack{-- not run" in text
    assert not re.search(r"(?<!\\)%(?! \\usepackage)", text)
    assert not re.search(r"[±★†\u2212]", text)
    for line in text.splitlines():
        assert len(re.findall(r"(?<!\\)\$", line)) % 2 == 0
        assert len(re.findall(r"(?<!\\)\{", line)) == len(re.findall(r"(?<!\\)\}", line))
    body = text[text.index("tab:table8") :]
    rows = body[body.index("\\midrule") : body.index("\\bottomrule")].splitlines()[1:]
    assert len(rows) == len(load_table("table8").rows)
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}


def test_csv(report: Path) -> None:
    with (report / "report-demo.csv").open() as file:
        lines = {(x["table"], x["row"], x["column"], x["measure"]): x for x in csv.DictReader(file)}
    assert lines["table7", "Ours_std", "9-MNIST", "D_r"] == {
        "table": "table7",
        "row": "Ours_std",
        "column": "9-MNIST",
        "measure": "D_r",
        "n": "2",
        "mean": "98.5",
        "std": "0.707107",
        "paper_mean": "98.53",
        "paper_std": "0.11",
        "difference": "-0.03",
        "mark": "",
        "seeds": "0 1",
    }
    assert lines["table8", "Ours_std", "9-MNIST", "asr_D_e"]["mark"] == "outside"
    assert lines["table7", "Ours_std-scrub", "9-MNIST", "D_r"]["mark"] == "failed"
    assert lines["table7", "Oracle_std", "9-MNIST", "D_r"]["mark"] == "not run"
    assert lines["table7", "Ours_std", "9-MNIST", "oracle_js"]["mean"] == "0.0123"
    assert lines["table7", "Ours_std", "9-MNIST", "mia_D_e_auc"]["mean"] == "0.512"
    cells = {key: len(load_table(key).cells()) * len(load_table(key).measures) for key in SHOWN}
    main_lines = [k for k in lines if k[3] not in EXTRAS]
    assert {name: sum(k[0] == name for k in main_lines) for name in SHOWN} == cells


def test_html_says_it_all_without_any_outside_help(report: Path) -> None:
    text = (report / "report-demo.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:image/png;base64,|#)""", text)
    assert "@import" not in text
    assert "<script" not in text
    assert "machine &lt;0&gt;" in text
    assert "&lt;b&gt;nothing&lt;/b&gt;" in text
    assert "-- failed" in text
    assert "-- not run" in text
    assert "agreement with the oracle" in text
    # Two seeds' equal pictures are one; table 7 and table 8 show it each.
    assert text.count("Generated samples, one row a condition. 9-MNIST, seed 0: Ours") == 4
    assert len(set(re.findall(r'\bid="([^"]+)"', text))) == len(re.findall(r'\bid="', text))


PROBE = """<script>addEventListener("load", () => {
  const all = (what) => [...document.querySelectorAll(what)];
  const ink = getComputedStyle(document.body).color;
  for (const box of all("details")) box.open = true;
  document.body.innerHTML = JSON.stringify({
    images: all("img").map((i) => i.naturalWidth),
    alts: all("img").map((i) => i.alt.length),
    tables: all("section.sheet table").map((t) => t.getBoundingClientRect().height),
    charts: all("svg.chart").map((c) => c.getBoundingClientRect().height),
    inks: [...new Set(all("svg.chart text").map((t) => getComputedStyle(t).fill))],
    ink, page: getComputedStyle(document.body).backgroundColor,
    width: document.documentElement.scrollWidth, window: innerWidth,
    loaded: performance.getEntriesByType("resource").map((r) => r.name.slice(0, 5)),
  });
});</script>"""


@pytest.mark.parametrize(("width", "dark"), [(1300, False), (500, True)])
def test_html_in_a_browser_without_network(report: Path, width: int, dark: bool) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    page = report.parent / f"probe{width}.html"
    page.write_text((report / "report-demo.html").read_text() + PROBE)
    dumped = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={report.parent / f'browser{width}'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *("--virtual-time-budget=3000", f"--window-size={width},900", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    found = re.search(r"<body>(\{.*\})", dumped.stdout)
    assert found, dumped.stdout[-300:] + dumped.stderr[-300:]
    seen = json.loads(found[1])
    assert seen["images"] == [60] * len(seen["images"])
    assert len(seen["images"]) == 6
    assert min(seen["alts"]) > 20
    assert len(seen["tables"]) == 6  # of four sheets, and the extras of tables 7 and 8
    assert min(seen["tables"]) > 50
    # Seeds of tables 7 and 8, the accuracies of table 7, one curve of figure 4.
    assert len(seen["charts"]) == 4
    assert min(seen["charts"]) > 50
    assert seen["inks"] == [seen["ink"]]
    light = [int(x) for x in re.findall(r"\d+", seen["page"])[:3]]
    assert (max(light) < 60) == dark
    assert seen["width"] <= seen["window"]  # tables scroll, the page does not
    assert set(seen["loaded"]) <= {"data:"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runs", "nowhere"], "--runs: nowhere is not a folder"),
        (["--scale", "papre"], "did you mean 'paper'"),
        (["--tables", "table9"], "--tables: 'table9' is not one of table1"),
        (["--runs", ".", "--out", "file/out", "--tables", "fig1"], "--out: file/out cannot be"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_nothing_run_yet_gives_an_empty_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == [
        f"report-paper.{s}" for s in ("html", "md", "tex", "csv")
    ]
    text = paths[1].read_text()
    assert text.count("No run so far.") == len(list_experiments())
    assert text.count("<br>paper ") == 376
