"""Shared fixtures, and which tests are slow.

What takes seconds to import is imported where it is used: the process that hands out the tests
needs none of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

# Workers share the cores: a thread that waits for another gives way. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Files whose tests run the command line or train for seconds.
SLOW = {
    "test_baselines",
    "test_bench",
    "test_cli",
    "test_conf",
    "test_disk",
    "test_docs",
    "test_evaluate",
    "test_experiments",
    "test_forget",
    "test_fresh",
    "test_gpu",
    "test_installed",
    "test_page_browser",
    "test_precision",
    "test_signals",
    "test_standins",
    "test_batches_of_one",
    "test_strange_models",
    "test_sweeps",
    "test_tracking",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is not for ``make test-fast``."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        if item.path.stem in SLOW or used & {"cli", "full_mnist"}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """One thread, for the tests run side by side; or as many as OMP_NUM_THREADS says."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture
def doubles() -> Iterator[None]:
    """Within, torch computes in float64."""
    from tests.helpers import doubles

    with doubles():
        yield


@pytest.fixture
def cli(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line into ``tmp_path/out``: exit status, standard output and error."""
    from unlearn.cli import main

    monkeypatch.delenv("UNLEARN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([*arguments, f"output_dir={tmp_path / 'out'}"])
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A GPU, or where there is none what stands in for it."""
    import torch

    from tests.standin import GPU, install

    if torch.cuda.is_available():
        yield GPU
    else:
        with install(monkeypatch):
            yield GPU


@pytest.fixture
def full_mnist() -> Path:
    from tests.helpers import SHARED

    if not (SHARED / "MNIST" / "raw").is_dir():
        pytest.skip("full MNIST is not at hand (UNLEARN_DATA names a folder that holds it)")
    return SHARED
