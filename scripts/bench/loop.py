"""What Lightning's loop costs a step: original training by it and by a plain loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from unlearn.config.schema import Config
from unlearn.data import Images
from unlearn.engine.fitting import ShuffledRows, gpu_layout
from unlearn.engine.seeding import seeded
from unlearn.training import train

from .measure import Cell, Options, Result, in_turns, ratios, spread_of
from .subjects import CLASSES, NETWORKS, Network, classifier, random_images, settings

# Steps of the shorter and of the longer run: their difference leaves out what starting costs.
STEPS = {"tiny": (2, 4), "demo": (10, 40), "paper": (20, 120)}


def bench(options: Options) -> list[Result]:
    """The scale's network, and the narrowest one, whose steps are short."""
    narrow: Network = ("small_cnn", 2, (1, 16, 16))
    networks = dict.fromkeys([NETWORKS[options.scale], narrow])
    return [_of(options, network) for network in networks]


def plain(cfg: Config, network: Network, data: Images) -> float:
    """Train as ``unlearn.training`` does, in a bare loop; the last loss."""
    c, device = cfg.training, data.x.device
    model = gpu_layout(classifier(*network).to(device)).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay
    )
    rng = seeded(c.seed, "training", device=device)
    loss = torch.zeros(())
    for rows in ShuffledRows(len(data), c.batch_size, c.epochs, rng):
        x = cfg.augment(data.x[rows], rng)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), data.y[rows])
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def ours(cfg: Config, network: Network, data: Images) -> float:
    """The same by ``unlearn.training.train``."""
    model: nn.Module = classifier(*network)
    return train(cfg.training, model, data, cfg.augment, data.x.device)[-1]["loss"]


def _of(options: Options, network: Network) -> Result:
    name, width, shape = network
    short, long = STEPS[options.scale]
    # One schedule for any length, so that the losses can be compared.
    cfg = settings(options.scale, "training.epochs=1", "training.schedule=constant")
    batch = cfg.training.batch_size
    data = {}
    for steps in (short, long):
        x = random_images(steps * batch, shape).to(options.device)
        data[steps] = Images(x, torch.arange(len(x), device=options.device) % CLASSES)
    ways = {
        (way, steps): (lambda way=way, steps=steps: way(cfg, network, data[steps]))
        for way in (plain, ours)
        for steps in (short, long)
    }
    times = in_turns({str(k): v for k, v in ways.items()}, options.repeats, options.device)
    rows: list[dict[str, Cell]] = []
    step: dict[str, list[float]] = {}
    for way, label in ((plain, "plain PyTorch"), (ours, "Lightning")):
        brief, full = (times[str((way, steps))] for steps in (short, long))
        step[label] = [(b - a) / (long - short) for a, b in zip(brief, full, strict=True)]
        start = [a - short * s for a, s in zip(brief, step[label], strict=True)]
        rows.append(
            {
                "way": label,
                "ms a step": spread_of([1000 * s for s in step[label]]),
                "ms to start": spread_of([1000 * s for s in start]),
            }
        )
    usual, lightning = step.values()
    extra = [1000 * (b - a) for a, b in zip(usual, lightning, strict=True)]
    losses = plain(cfg, network, data[short]), ours(cfg, network, data[short])
    return Result(
        f"Original training, {name} of width {width}, batch {batch}, {long - short} steps",
        rows,
        {
            "Lightning's overhead, ms a step": spread_of(extra),
            "times as long as the plain loop": spread_of(ratios(lightning, usual)),
            f"difference of the losses after {short} steps": abs(losses[0] - losses[1]),
        },
    )
