"""What several test files need: tiny networks, tiny settings, small images."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from scripts.kill import TINY as TINY
from unlearn import Settings, settings
from unlearn.engine.fitting import Fit
from unlearn.filtration import Proxy
from unlearn.models.adapt import plainly
from unlearn.problem import Interface, Problem

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


# Strange models


def by_parts(
    model: nn.Module,
    shots: torch.Tensor,
    labels: torch.Tensor,
    intention: str = "neg",
    interface: Interface | None = None,
    **relearning: object,
) -> tuple[Problem, nn.Module]:
    """A repair in two steps of inversion and one epoch of relearning, of any model.

    Its proxy is written, not made, so that nothing hangs on what the model knows.
    """
    chosen = tiny(steps=2, batch_size=12)
    chosen = replace(chosen, relearning=replace(chosen.relearning, **relearning))  # type: ignore[arg-type]
    with plainly(model):
        correct = (labels + 1) % 4 if intention == "cor" else None
        problem = Problem.of(
            model, shots, labels, correct, chosen.augment, 0, interface or Interface()
        )
        stages = chosen.stages(chosen.intention(intention), problem.correct)
        fit = Fit()
        state, _ = stages[0].make(problem, fit)
        sampler = stages[1].sampler(problem, stages[0].generator(problem, state))
        state, _ = stages[2].make(problem, written_proxy(problem), sampler, fit)
        return problem, problem.repaired(state)


def written_proxy(problem: Problem, number: int = 12) -> Proxy:
    """Noise of which every third image is called target-like."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((number, *problem.shape), generator=generator)
    conditions = torch.arange(number) % (problem.classes + 1)
    like = torch.arange(number) % 3 == 0
    with torch.no_grad():
        p = problem.original(images.to(problem.device)).softmax(-1)
    one = torch.ones(number)
    return Proxy(
        (images * 255).to(torch.uint8), p.cpu(), conditions, one, one, like,
        torch.zeros(number, dtype=torch.bool), one[0], one[:1], torch.tensor(False),
    )  # fmt: skip
