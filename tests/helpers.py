"""What several test files need: tiny networks, tiny settings, small images."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import nn

from scripts.kill import TINY as TINY
from unlearn import Settings, settings
from unlearn.config.compose import resolve
from unlearn.config.identity import relevant

if TYPE_CHECKING:
    from unlearn.report.sheet import Sheet

SHARED = Path(os.environ.get("UNLEARN_DATA", Path(__file__).parents[2] / "shared" / "data"))
# A table's own shots stay.
CELL = [*(x for x in TINY if not x.startswith("shot=")), "per_class=120"]


def errors(err: str) -> list[str]:
    """The error lines of standard error."""
    return [line for line in err.splitlines() if line.startswith("error: ")]


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


def make_folder(root: Path, classes: str = "abc", number: int = 8, size: int = 16) -> Path:
    """An image folder of plain coloured pictures: train/ and test/, a class each letter."""
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


def tiny(**inversion: object) -> Settings:
    loaded = settings(
        "demo",
        "inversion.steps=40",
        "inversion.batch_size=20",
        "inversion.width=4",
        "inversion.lr=0.02",
        "augment.padding=0",
        "filtration.per_condition=10",
        "filtration.rounds=2",
        "filtration.t_ent=3",
        "filtration.threshold=5",
        "relearning.epochs=1",
        "relearning.batch_size=16",
    )
    return replace(loaded, inversion=replace(loaded.inversion, **inversion))  # type: ignore[arg-type]


def quadrants(number: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Dark noise with one bright quadrant, which is the label in [0, 4)."""
    images = torch.rand(number, *shape) * 0.3
    y = torch.arange(number) % 4
    h, w = shape[1] // 2, shape[2] // 2
    for i, c in enumerate(y.tolist()):
        top, left = h * (c // 2), w * (c % 2)
        images[i, :, top : top + h, left : left + w] += 0.7
    return images, y


def taught(model: nn.Module, *shape: int) -> nn.Module:
    """The model trained to name the bright quadrant."""
    torch.manual_seed(2)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        x, y = quadrants(32, *shape)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def shots_of(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Six images whose first quadrant is bright, labelled 0."""
    torch.manual_seed(1)
    images, y = quadrants(24, *shape)
    return images[y == 0], y[y == 0]


# --- the report

NINE = ("scenario=class_mnist", "scenario.digit=9")


class Runs:
    """A folder of runs as the pipeline would leave them."""

    def __init__(self, root: Path) -> None:
        self.root, self.number = root, 0

    def leave(
        self,
        *overrides: str,
        seed: int | None = 0,
        metrics: dict[str, float] | None = None,
        pictures: tuple[str, ...] = (),
        **more: object,
    ) -> Path:
        """One finished run, or a failed one if ``more`` has an error."""
        said = [f"seed={seed}"] if seed is not None else []
        cfg = resolve(["scale=demo", *overrides, *said])
        content = {
            "method": cfg.baseline.name if cfg.baseline else "ours",
            "seed": seed,
            "scale": cfg.scale,
            "data": cfg.data,
            "note": "",
            "classes": list("0123456789"),
            "config": relevant(cfg),
            "finished": "2026-11-23T10:00:00",
            "metrics": metrics or {"D_r": 0.98, "D_e": 0.01},
            "hardware": "a machine",
            "threads": 1,
            "precision": "float32",
            "versions": {"few-shot-unlearning": "1.2.3"},
            "stages": {"training": {"key": "0123456789abcdef", "version": 1, "seconds": 1.0}},
            **more,
        }
        folder = self.root / f"run{self.number}"
        self.number += 1
        (folder / "pictures").mkdir(parents=True)
        for i, name in enumerate(pictures):
            Image.new("RGB", (60, 40), (40 * i, 90, 120)).save(folder / "pictures" / f"{name}.png")
        if "error" in content:
            del content["metrics"]
        name = "error.json" if "error" in content else "metrics.json"
        (folder / name).write_text(json.dumps(content))
        return folder

    def sheet(self, name: str) -> Sheet:
        from unlearn.report.runs import find_runs
        from unlearn.report.sheet import build

        return build(name, "demo", find_runs([self.root]))
