"""Tables within a README: they are what the committed runs give, and what marks may say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.test_report import Runs
from unlearn import experiments
from unlearn.config.compose import CONF
from unlearn.report.__main__ import main
from unlearn.report.match import variations
from unlearn.report.readme import refresh

ROOT = Path(__file__).parents[1]
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


def test_our_readme_is_what_the_committed_runs_give() -> None:
    """If not: python -m unlearn.report --readme README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "| Ours_neg |" in text
    assert refresh(text, ROOT) == text


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
    monkeypatch.setattr(experiments, "FOLDER", folder)
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
