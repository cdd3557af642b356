"""Shared fixtures: tiny networks, tiny settings, a command line run in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from scripts.kill import TINY as TINY
from tests.standin import GPU, install

SHARED = Path(os.environ.get("UNLEARN_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The tests themselves run side by side; and the numbers depend on it in the last digit."""
    torch.set_num_threads(1)


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
    if torch.cuda.is_available():
        yield GPU
    else:
        with install(monkeypatch):
            yield GPU


def small_net(channels: int = 1, classes: int = 4, norm: bool = True, seed: int = 0) -> nn.Module:
    """A network with two convolutions, in eval mode, its BatchNorm statistics non-trivial."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    inside = channels
    for out in (6, 8):
        layers += [nn.Conv2d(inside, out, 3, 2, 1)]
        layers += [nn.BatchNorm2d(out)] if norm else []
        layers += [nn.ReLU()]
        inside = out
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes))
    net.train()
    with torch.no_grad():
        net[-1].weight.mul_(8)
        for _ in range(5):
            net(torch.rand(32, channels, 28, 28))
    return net.eval()


@pytest.fixture
def full_mnist() -> Path:
    if not (SHARED / "MNIST" / "raw").is_dir():
        pytest.skip("full MNIST is not at hand (UNLEARN_DATA names a folder that holds it)")
    return SHARED


def make_folder(root: Path, classes: str = "abc", number: int = 8, size: int = 16) -> Path:
    """An image folder of plain coloured pictures: train/ and test/, a class each letter."""
    from PIL import Image

    torch.manual_seed(0)
    for split in ("train", "test"):
        for c, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                colour = torch.tensor([c * 67, c * 131 + 90, c * 29 + 40]) % 190
                pixels = torch.randint(0, 60, (size, size, 3)) + colour
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{i}.png")
    return root
