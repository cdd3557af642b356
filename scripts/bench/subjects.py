"""Networks, images and settings to measure with; no data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from unlearn.stage import Stage

from unlearn.config.compose import resolve
from unlearn.config.schema import Config
from unlearn.engine.fitting import gpu_layout
from unlearn.engine.precision import Computing, kernels
from unlearn.engine.seeding import seeded, seeded_init
from unlearn.inversion.generator import Generator
from unlearn.inversion.invert import Inversion, build_generator
from unlearn.models import ModelConfig, build
from unlearn.models.probe import head_of

CLASSES, TARGET, SHOTS = 10, 7, 30
Network = tuple[str, int, tuple[int, int, int]]
# By scale: network, width, (C, H, W).
NETWORKS: dict[str, Network] = {
    "tiny": ("small_cnn", 2, (1, 16, 16)),
    "demo": ("small_cnn", 16, (1, 28, 28)),
    "paper": ("preact_resnet18", 64, (1, 32, 32)),
}
TINY = [
    "training.batch_size=8",
    "inversion.batch_size=12",
    "inversion.width=1",
    "inversion.z=4",
    "inversion.augmentations=2",
    "filtration.per_condition=2",
    "relearning.batch_size=8",
]


def settings(scale: str, *changes: str) -> Config:
    """As conf/ has them for a scale, and then ``changes``; ``tiny`` is a cut of ``demo``."""
    tiny = TINY if scale == "tiny" else []
    return resolve([f"scale={'demo' if tiny else scale}", *tiny, *changes])


def random_images(number: int, shape: tuple[int, int, int]) -> Tensor:
    """Uint8 noise (number, C, H, W), the same each time."""
    rng = seeded(0, "bench")
    return torch.randint(0, 256, (number, *shape), generator=rng, dtype=torch.uint8)


def classifier(
    name: str, width: int, shape: tuple[int, int, int], classes: int = CLASSES
) -> nn.Module:
    """In eval mode, its running statistics those of noise; ``lenet`` is one not known to build."""
    channels = shape[0]
    with seeded_init(0, "bench"):
        if name == "lenet":
            model: nn.Module = lenet(shape, classes)
        else:
            cfg = ModelConfig(name, "batch", width)
            model = build(cfg, channels, classes, [0.5] * channels, [0.3] * channels)
    model.train()
    with torch.no_grad():
        for part in random_images(64, shape).split(32):
            model(part.float() / 255)
    return model.eval()


def lenet(shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Like LeNet-5 (LeCun et al. 1998), with ReLU, max pooling and BatchNorm."""
    c, h, w = shape
    rows, columns = ((side - 4) // 2 - 4 for side in (h, w))
    return nn.Sequential(
        *(nn.Conv2d(c, 6, 5), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(16 * (rows // 2) * (columns // 2), 120), nn.ReLU()),
        *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
    )


def inversion_of(
    cfg: Config,
    device: torch.device,
    network: Network,
    shots: int = SHOTS,
    classes: int = CLASSES,
    seed: int = 0,
) -> tuple[Inversion, Generator, Tensor]:
    """An inversion that is ready to train, its generator, and its shots in [0, 1]."""
    name, width, shape = network
    model = classifier(name, width, shape, classes).requires_grad_(False)
    model = gpu_layout(model.to(device))
    images = random_images(shots, shape).to(device).float() / 255
    generator = gpu_layout(build_generator(cfg.inversion, classes, shape, seed).to(device))
    inversion = Inversion(
        cfg.inversion,
        generator,
        model,
        images,
        min(TARGET, classes - 1),
        classes,
        cfg.augment,
        seed,
        head_of(model, images),
    )
    return inversion, generator, images


def computing_of(cfg: Config) -> Computing:
    """How a run with these settings computes."""
    return Computing(cfg.precision, cfg.compile)


def step_of(
    stage: Stage, batch: object, computing: Computing, device: torch.device
) -> Callable[[], dict[str, Tensor]]:
    """A stage's step on a batch, as ``fit`` takes it, without Lightning; gives its losses."""
    made: Any = stage.to(device).configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    passes = computing.passes(device, stage.steps)

    def step() -> dict[str, Tensor]:
        optimizer.zero_grad()
        with kernels(computing, device):
            with passes.here():
                losses = stage.losses(batch)
            losses["loss"].backward()
            optimizer.step()
        return losses

    return step
