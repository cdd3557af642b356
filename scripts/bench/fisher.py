"""The Fisher diagonal: batches against the loop over images and classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.baselines.diagonal import fisher_diagonal
from unlearn.models import ModelConfig

from .measure import Options, Result, against_the_first, in_turns
from .subjects import CLASSES, classifier, random_images

SHAPE = (1, 28, 28)
NETWORKS = [("small_cnn", 4), ("small_cnn", 16), ("preact_resnet18", 8)]
ALONE, BATCH = 8, 64  # images of a turn


def bench(options: Options) -> list[Result]:
    """A table for each network, on noise of MNIST's size."""
    networks = NETWORKS[:1] if options.scale == "tiny" else NETWORKS
    return [_of(options, name, width) for name, width in networks]


def _of(options: Options, name: str, width: int) -> Result:
    model = classifier(ModelConfig(name, "batch", width), SHAPE[0]).to(options.device)
    images = random_images(BATCH, SHAPE).to(options.device)
    few = images[:ALONE]
    ways = {
        "batch 1, a backward pass for each class": lambda: one_by_one(model, few),
        f"batch {BATCH}, all at once": lambda: fisher_diagonal(model, images, batch_size=BATCH),
    }
    times = in_turns(ways, options.repeats, options.device)
    sizes = dict(zip(ways, (ALONE, BATCH), strict=True))
    slow, fast = one_by_one(model, few[:2]), fisher_diagonal(model, few[:2], batch_size=2)
    difference = max(float((fast[k] - f).abs().max() / f.max()) for k, f in slow.items())
    return Result(
        f"Fisher diagonal, {name} of width {width}, {SHAPE[1]}x{SHAPE[2]}, {CLASSES} classes",
        against_the_first(times, sizes, "image"),
        {"largest difference of the results, relative to the maximum": difference},
    )


def one_by_one(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The usual Fisher diagonal: one image, one class at a time; uint8 (N, C, H, W)."""
    sums = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for image in images.split(1):
        logits = model(image.to(torch.get_default_dtype()) / 255)
        for y, p in enumerate(logits.detach().softmax(-1)[0]):
            model.zero_grad()
            label = torch.tensor([y], device=images.device)
            F.cross_entropy(logits, label).backward(retain_graph=True)
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    sums[name] += p * parameter.grad**2
    model.zero_grad()
    return {name: total / len(images) for name, total in sums.items()}
