"""Every experiment of conf/ end to end at scale=demo, a few steps each, and its report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.test_sweeps import CELL
from unlearn.cli import expand, main
from unlearn.experiments import list_experiments, load_table
from unlearn.report.__main__ import main as report
from unlearn.runs import run_folder
from unlearn.settings import resolve

# One digit stands for the three of Table 4, the ends for the shots of Table 5; the second column
# of Table 1 is Table 2; CIFAR-10 has to be downloaded.
ONLY = {
    "table1": ["scenario=7noisymnist"],
    "table4": ["scenario.digit=9"],
    "table5": ["shot=1.0,1img"],
    "fig3": ["scenario=7mnist"],
    "best": ["scenario=7noisymnist"],
    "switches": ["scenario=7noisymnist"],
}
SHOWN = {"fig1": ["confusing"], "fig3": ["filtration", "knee"]}
FEWER = [x for x in CELL if "per_class" not in x]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that what the tables share is computed once."""
    return tmp_path_factory.mktemp("reproduce")


@pytest.mark.parametrize("name", list_experiments())
def test_every_cell_of_every_experiment_runs(name: str, outputs: Path) -> None:
    sweep = [f"experiment={name}", *FEWER, "seed=0", *ONLY.get(name, []), f"output_dir={outputs}"]
    assert main(["-m", *sweep]) == 0
    folders = {run_folder(resolve(job)) for job in expand(sweep)}
    assert len(folders) > 0
    for folder in folders:
        metrics = json.loads((folder / "metrics.json").read_text())
        for measure in load_table(name).measures:
            assert measure in metrics["metrics"], (folder, measure)
        for picture in SHOWN.get(name, ()):
            assert (folder / "pictures" / f"{picture}.png").stat().st_size > 1000
        if name == "fig4":
            counts = metrics["predictions"]["oracle"]["counts"]
            assert len(counts) == len(metrics["predictions"]["oracle"]["epoch"]) == 1
            assert {sum(c) for c in counts} <= {25, 100}  # test images of crossed sevens, of 9


def test_the_report_of_all_of_them(outputs: Path) -> None:
    """Every cell that was run is filled; distances to the oracles are there."""
    if not list(outputs.rglob("metrics.json")):
        pytest.skip("the experiments were not run")
    assert report(["--runs", str(outputs), "--out", str(outputs / "report")]) in (0, None)
    rows = list(csv.DictReader((outputs / "report" / "report-demo.csv").open()))
    filled = {(r["table"], r["row"]) for r in rows if r["n"] not in ("", "0")}
    for name in ("table1", "table2", "table3", "table6", "table7", "table8", "fig4"):
        for row in load_table(name).rows:
            if row != "Logit mask" or name == "table8":
                assert (name, row) in filled, (name, row)
    assert any("oracle" in r["measure"] for r in rows)
