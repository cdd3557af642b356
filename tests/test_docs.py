"""The README and docs/: their tables, commands, files, links and examples; what marks may say."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Runs
from unlearn import cli
from unlearn.config import tables
from unlearn.config.compose import CONF
from unlearn.report import match
from unlearn.report.__main__ import main
from unlearn.report.match import variations
from unlearn.report.readme import refresh
from unlearn.sweep.checked import check_jobs, expand

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [*PAGES, ROOT / "outputs" / "published" / "README.md"]
# Says how conf/ has changed since the runs; it may be older than conf/.
SINCE = re.compile(r"^- Run with other settings.*\n", re.MULTILINE)
EXAMPLE = re.compile(r"^File `(\S+)`:\n\n```(?:python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OWN = """
experiment: switches
hydra:
  sweeper:
    title: Our switches
    measures: [D_r, D_e]
    seeds: [0, 1]
    columns:
      7-noisyMNIST: scenario=7noisymnist
    rows:
      Ours: {sets: intention=cor shot=0.3}
      no scrub: {sets: intention=std shot=0.3 intention.scrub_epochs=0}
      never run: {sets: intention=unt shot=0.3}
"""


def marked(table: str, more: str = "", within: str = "") -> str:
    return f"<!-- table: {table} scale: demo runs: runs{more} -->\n{within}<!-- end -->"


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


# --- our pages


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if "<!-- table:" in p.read_text()], ids=by_name)
def test_tables_are_what_the_committed_runs_give(page: Path) -> None:
    """If not: unlearn report --readme PAGE."""
    text = page.read_text(encoding="utf-8")
    tables = re.findall(r"<!-- table:.*?<!-- end -->", text, re.DOTALL)
    assert len(tables) == text.count("<!-- table:") > 0
    assert all(re.search(r"\| -?\d+\.\d+ (± \d+\.\d+ )?\(\d+\)", table) for table in tables)
    assert SINCE.sub("", refresh(text, page.parent)) == SINCE.sub("", text)


@pytest.mark.parametrize("key", ["inversion.steps", "relearning.temperature"])
def test_a_changed_default_changes_no_table(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = "outputs/published/2026-11-23-cpu-2-cores/study"
    which = f"table1 scale: demo runs: {study} columns: 7-noisyMNIST | 7-MNIST"
    text = refresh(f"<!-- table: {which} -->\n<!-- end -->", ROOT)
    assert "| Ours_neg |" in text
    before = match.composed

    def changed(overrides: tuple[str, ...], scale: str) -> dict[str, Any]:
        return {k: v + 1 if k == key else v for k, v in before(overrides, scale).items()}

    monkeypatch.setattr(match, "composed", changed)
    again = refresh(text, ROOT)
    assert f"conf/ has now: {key}" in again
    assert SINCE.sub("", again) == SINCE.sub("", text)


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= 160


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", LINKING, ids=by_name)
def test_links_and_pictures_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        there = page.parent / target if target else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


@pytest.mark.parametrize("page", LINKING, ids=by_name)
def test_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text()
    made = {path for path, _ in EXAMPLE.findall(text)}
    names = re.findall(r"`((?:unlearn|conf|docs|tests|scripts)/[\w./-]*)`", text)
    assert [n for n in names if n not in made and not (ROOT / n).exists() and "NAME" not in n] == []


def test_the_file_tree_names_every_part() -> None:
    tree = re.search(r"^```\n(unlearn/\n.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert tree is not None
    named = re.findall(r"^  ([\w.]+/?) ", tree[1], re.MULTILINE)
    assert [n for n in named if not (ROOT / "unlearn" / n).exists()] == []
    parts = {f"{p.parent.name}/" for p in (ROOT / "unlearn").glob("*/__init__.py")}
    assert parts <= set(named)


# --- commands


def commands(page: Path) -> list[list[str]]:
    """The words of every command on a page, without ``timeout``."""
    text = EXAMPLE.sub("", page.read_text())
    lines = re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    starts = ("unlearn ", "python ", "make ", "timeout ")
    found = [shlex.split(x.split("   # ")[0]) for x in lines if x.startswith(starts)]
    return [words[2:] if words[0] == "timeout" else words for words in found if len(words) > 1]


EXAMPLES_OWN = {"scenario=bold_mnist", "confidence"}
RUNS = [
    words[1:]
    for page in LINKING
    for words in commands(page)
    if words[0] == "unlearn" and not EXAMPLES_OWN & set(words)
]


def test_commands_are_found() -> None:
    assert len(RUNS) > 40
    assert {"report", "plan", "evaluate", "dashboard", "page"} <= {words[0] for words in RUNS}


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_commands_are_understood(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] in ("report", "evaluate", "dashboard", "page"):
        with pytest.raises(SystemExit) as end:
            cli.main([words[0], "--help"])
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert [w for w in words if w.startswith("--") and w not in text] == []
        return
    if words == ["--help"]:
        return
    overrides = [w.replace("=NAME", "=table1") for w in words if w not in ("plan", "-m")]
    jobs = expand(overrides) if "-m" in words else [overrides]
    check_jobs([jobs[0], jobs[-1]], "-m" in words)


@pytest.mark.parametrize("page", LINKING, ids=by_name)
def test_scripts_and_targets_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert set(words[1:]) <= targets, words
        if words[0] == "python" and words[1] != "run.py":
            place = ROOT / words[2].replace(".", "/") if words[1] == "-m" else ROOT / words[1]
            module = place.with_suffix(".py")
            files = [module] if module.is_file() else [*place.glob("*.py")]
            source = "".join(file.read_text() for file in files)
            flags = [w for w in words[2:] if w.startswith("--")]
            assert [w for w in flags if f'"{w}"' not in source] == []


# --- the examples


def test_the_examples_run(tmp_path: Path) -> None:
    """Copied out of the page into a checkout of its own: a scenario, an intention, a measure."""
    examples = EXAMPLE.findall((ROOT / "docs" / "extending.md").read_text())
    assert len(examples) == 5
    for name in ("unlearn", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", tmp_path)
    for path, text in examples:
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(text)
    # The oracle learns what the intention says, and nothing has to be found among samples.
    words = ["scenario=bold_mnist", "intention=even", "baseline=oracle", "shot=1.0", "scale=demo"]
    small = ["per_class=120", "model.width=4", "training.epochs=2", "threads=1"]
    subprocess.run(
        [sys.executable, "run.py", *words, *small], cwd=tmp_path, check=True, capture_output=True
    )
    (file,) = (tmp_path / "outputs" / "runs" / "bold_mnist" / "oracle-even").rglob("metrics.json")
    record = json.loads(file.read_text())
    assert record["config"]["scenario"]["ink"] == 0.1
    assert record["intention"] == "even"
    assert 0 < record["metrics"]["confidence_D_e"] <= 1
    assert 0 < record["shots"] < 120


# --- marks


def test_a_block_is_made_from_its_runs(runs: Runs, tmp_path: Path) -> None:
    for seed, d_e in enumerate((0.95, 0.96, 0.97)):
        metrics = {"D_r": 0.98, "D_e": d_e}
        runs.leave("scenario=7noisymnist", "intention=cor", "shot=1.0", seed=seed, metrics=metrics)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{marked('table1', within='old')}\nafter\n")
    assert main(["--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- table: table1 scale: demo runs: runs -->\n| | 7-noisy")
    assert text.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in text
    assert "| | 7-noisyMNIST: D_r | 7-noisyMNIST: D_e |" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert rows[1:] == ["| Ours_cor | 98.0 ± 0.0 (3) / 99.3 ± 0.0 | 96.0 ± 1.0 (3) / 100.0 ± 0.0 |"]
    assert "Hardware: a machine." in text
    assert "- Not run: 7-MNIST, Truck-CIFAR10, Original, " in text
    assert refresh(text, tmp_path) == text


def test_a_mark_may_choose_columns_and_rows(runs: Runs, tmp_path: Path) -> None:
    for scenario in ("7noisymnist", "7mnist"):
        for intention in ("std", "neg"):
            runs.leave(f"scenario={scenario}", f"intention={intention}", "shot=1.0")
    chosen = " columns: 7-MNIST rows: Ours_neg | Original | Ours_std"
    text = refresh(marked("table1", chosen), tmp_path)
    assert "| | 7-MNIST: D_r | 7-MNIST: D_e |" in text
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| O")]
    assert rows == ["| Ours_neg", "| Ours_std"]
    assert "2 of 3 cells run." in text
    assert "- Not run: Original." in text
    assert refresh(text, tmp_path) == text


def test_a_mark_may_name_several_folders_and_the_later_run_counts(
    runs: Runs, tmp_path: Path
) -> None:
    later = Runs(tmp_path / "later")
    cell = ("scenario=7mnist", "intention=neg", "shot=1.0")
    runs.leave(*cell, metrics={"D_r": 0.5, "D_e": 0.5})
    runs.leave(*cell, seed=1, metrics={"D_r": 0.7, "D_e": 0.1})
    later.leave(*cell, metrics={"D_r": 0.9, "D_e": 0.1}, finished="2026-11-24T10:00:00")
    for folders in ("runs,later", "later,runs"):
        text = refresh(marked("table1").replace("runs: runs", f"runs: {folders}"), tmp_path)
        assert "| Ours_neg | 80.0 ± 14.1 (2) / " in text


def test_other_settings_are_said(runs: Runs, tmp_path: Path) -> None:
    runs.leave("scenario=7noisymnist", "intention=cor", "shot=1.0", "inversion.lr=0.5")
    text = refresh(marked("table1"), tmp_path)
    assert "- Run with other settings than conf/ has now: inversion.lr." in text


def test_an_experiment_that_is_not_the_papers(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "experiment"
    shutil.copytree(CONF / "experiment", folder)
    (folder / "switches.yaml").write_text(OWN)
    monkeypatch.setattr(tables, "FOLDER", folder)
    monkeypatch.setattr("unlearn.report.match.variations", variations.__wrapped__)
    for seed in (0, 1):
        for words, d_e in (
            (["intention=cor"], 0.9 + seed / 50),
            (["intention=std", "intention.scrub_epochs=0"], 0.5),
        ):
            metrics = {"D_r": 0.97, "D_e": d_e}
            runs.leave("scenario=7noisymnist", "shot=0.3", *words, seed=seed, metrics=metrics)
    text = refresh(marked("switches", " against: Ours"), tmp_path)
    assert "| Ours | 97.0 ± 0.0 (2) | 91.0 ± 1.4 (2) |" in text
    assert "| no scrub | 97.0 ± 0.0 (2) / 0.0 | 50.0 ± 0.0 (2) / \u221241.0 |" in text
    assert "difference from Ours" in text
    assert "paper" not in text
    assert "- Not run: never run." in text
    out = tmp_path / "report"
    given = ["--runs", str(tmp_path / "runs"), "--tables", "switches", "--out", str(out)]
    assert main(given) == 0
    assert "## Switches: Our switches" in (out / "report-demo.md").read_text()
    page = (out / "report-demo.html").read_text()
    assert "Dots: seeds; bar: their mean.<" in page
    assert "and the paper's values" not in page


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no mark at all", "--readme: needs <!-- table: NAME"),
        (marked("table1").replace("<!-- end -->", ""), "--readme: needs"),
        (marked("table1").replace("scale: demo ", ""), "--readme: needs"),
        (marked("tabel1"), "table: 'tabel1' is not one of"),
        (marked("table1", " against: Theirs"), "against: 'Theirs' is not one of"),
        (marked("table1", " rows: Ours_neg | Theirs"), "rows: 'Theirs' is not one of"),
        (marked("table1", " columns: Theirs"), "columns: 'Theirs' is not one of"),
        (marked("table1").replace("runs: runs", "runs: nowhere"), "nowhere is not a folder"),
    ],
)
def test_wrong_marks_change_nothing(
    runs: Runs, tmp_path: Path, text: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    runs.leave("scenario=7mnist", "intention=neg", "shot=1.0")
    (tmp_path / "README.md").write_text(text)
    assert main(["--readme", str(tmp_path / "README.md")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line
    assert (tmp_path / "README.md").read_text() == text
    assert main(["--readme", str(tmp_path / "none.md")]) == 2
