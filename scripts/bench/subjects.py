"""Networks, images and settings to measure with; no data set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlearn.config import CONF, Config, resolve
from unlearn.data import SOURCES
from unlearn.engine.fitting import gpu_layout
from unlearn.engine.seeding import seeded, seeded_init
from unlearn.inversion import Generator, build_generator
from unlearn.models import AnyModel, build
from unlearn.problem import Interface, Problem

CLASSES, TARGET, SHOTS = 10, 7, 30
SCALES = [*sorted(path.stem for path in (CONF / "scale").glob("*.yaml")), "tiny"]
TINY = [
    "scale=demo",
    "image_size=16",
    "model.width=2",
    "training.batch_size=8",
    "inversion.batch_size=12",
    "inversion.width=1",
    "inversion.z=4",
    "inversion.augmentations=2",
    "filtration.per_condition=2",
    "relearning.batch_size=8",
]


def settings(scale: str, *sets: str) -> Config:
    """As conf/ has them for a scale; ``tiny``, a cut of ``demo``, only shows that a bench runs."""
    return resolve([*(TINY if scale == "tiny" else [f"scale={scale}"]), *sets])


def shape_of(cfg: Config) -> tuple[int, int, int]:
    """(C, H, W) of the data's images with these settings."""
    channels = len(SOURCES[cfg.data].mean)
    side = cfg.image_size or (28 if channels == 1 else 32)
    return channels, side, side


def subject(cfg: Config) -> str:
    """The network and its images, in words."""
    channels, height, width = shape_of(cfg)
    wide = getattr(cfg.model, "width", "its own")
    return f"{cfg.model.name} of width {wide}, {channels}x{height}x{width}"


def random_images(number: int, shape: tuple[int, int, int]) -> Tensor:
    """Uint8 noise (number, C, H, W), the same each time."""
    rng = seeded(0, "bench")
    return torch.randint(0, 256, (number, *shape), generator=rng, dtype=torch.uint8)


def classifier(cfg: AnyModel, channels: int) -> nn.Module:
    """Untrained, in eval mode."""
    with seeded_init(0, "bench"):
        return build(cfg, channels, CLASSES, [0.5] * channels, [0.3] * channels).eval()


def problem_of(cfg: Config, device: torch.device) -> Problem:
    """A network, and shots of noise that it shall forget."""
    shape = shape_of(cfg)
    model = classifier(cfg.model, shape[0]).to(device)
    shots, labels = random_images(SHOTS, shape).float() / 255, torch.full((SHOTS,), TARGET)
    return Problem.of(model, shots, labels, None, cfg.augment, 0, Interface())


def generator_of(cfg: Config, problem: Problem) -> Generator:
    """An untrained generator, in eval mode."""
    generator = build_generator(cfg.inversion, problem.classes, problem.shape, problem.seed)
    return gpu_layout(generator.to(problem.device)).eval()
