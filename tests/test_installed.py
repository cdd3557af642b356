"""The command ``unlearn`` from a built wheel, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.helpers import CELL

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the extra dev is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command lies; the dependencies are those of this environment, this package not."""
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(home), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    # Files named .pth there, an editable install's among them, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def done(bin_folder: Path, folder: Path, *words: str) -> str:
    """Run something there, in a folder; returns its standard output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "UNLEARN_DATA")}
    command = [str(bin_folder / words[0]), *words[1:]]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_conf_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    ours = {str(p.relative_to(ROOT)) for p in (ROOT / "conf").rglob("*.yaml")}
    assert {f"unlearn/{name}" for name in ours} <= set(names)
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"unlearn", "hydra_plugins"}


def test_the_command_does_what_run_py_does(bin_folder: Path, tmp_path: Path) -> None:
    where = "from importlib.util import find_spec as f; print(*(f(name).origin for name in {}))"
    names = ["unlearn", "hydra_plugins.few_shot_unlearning"]
    places = done(bin_folder, tmp_path, "python", "-c", where.format(names)).split()
    assert len(places) == 2
    assert all(Path(place).is_relative_to(bin_folder.parent) for place in places)

    sweep = ["-m", *CELL, "baseline=original", "threads=1"]
    text = done(bin_folder, tmp_path, "python", "-m", "unlearn", *sweep)
    assert (tmp_path / text.strip().splitlines()[-1]).name == "metrics.json"

    written = done(bin_folder, tmp_path, "unlearn", "report", "--tables", "fig1").split()
    assert tmp_path / "outputs" / "report" / "report-demo.html" in [tmp_path / w for w in written]
