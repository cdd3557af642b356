"""A step of inversion against a straightforward one: the same losses, a pass for each part."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unlearn.inversion.losses as L
from unlearn.config.schema import Config
from unlearn.engine.seeding import seeded
from unlearn.inversion.generator import DoublingConv2d, Generator
from unlearn.inversion.invert import Inversion
from unlearn.models.probe import running_norms

from .measure import Options, Result, against_the_first, in_turns
from .subjects import NETWORKS, Network, computing_of, inversion_of, settings, step_of

# By scale: network, and what differs from the scale's settings.
CASES: dict[str, list[tuple[Network, list[str]]]] = {
    "tiny": [(NETWORKS["tiny"], [])],
    "demo": [
        (NETWORKS["demo"], []),
        (NETWORKS["demo"], ["inversion.augmentations=4"]),
        (("preact_resnet18", 8, (1, 32, 32)), ["inversion.augmentations=4"]),
    ],
    "paper": [(NETWORKS["paper"], []), (("preact_resnet18", 64, (3, 32, 32)), [])],
}


class Straightforward:
    """One step as one would write it down first: float32, NCHW, eager.

    Passes of f_o for the retained part, the target part, the whole batch, and each augmentation;
    the statistics of D_e at each step.
    """

    def __init__(self, cfg: Config, inversion: Inversion, generator: Generator, shots: Tensor):
        self.cfg, self.inversion, self.shots = cfg.inversion, inversion, shots
        self.model = copy.deepcopy(inversion.frozen["f_o"])
        self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.generator = copy.deepcopy(generator)
        self.generator.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        # The same draws as ours: its random state after the copies of D_e.
        self.rng = torch.Generator(shots.device).set_state(inversion.rng.get_state())
        self.seen: dict[str, Tensor] = {}
        modules = dict(self.model.named_modules())
        self.norms = running_norms(self.model)
        head = cast(str, inversion.probe.head)
        for name in {*inversion.tar_layers, *inversion.bn_layers, head}:
            modules[name].register_forward_pre_hook(self._keep(name))
        self.head = head
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(),
            lr=self.cfg.lr,
            betas=(self.cfg.betas[0], self.cfg.betas[1]),
            weight_decay=self.cfg.weight_decay,
        )

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen[name] = inputs[0].clone()

        return hook

    def generate(self, z: Tensor, y: Tensor) -> Tensor:
        """The generator's layers one after the other, its upsampled images made."""
        g = self.generator
        code = g.emphasis * F.one_hot(y, g.conditions).to(z.dtype)
        h: Tensor = g.project(torch.cat([z, code], 1)).view(len(z), -1, g.rows, g.columns)
        for layer in g.body:
            if isinstance(layer, nn.Conv2d):
                h = F.interpolate(h, scale_factor=2) if isinstance(layer, DoublingConv2d) else h
                h = F.conv2d(h, layer.weight, layer.bias, padding=1)
            else:
                h = layer(h)
        return h.sigmoid()

    def losses(self) -> dict[str, Tensor]:
        """Named losses of the next batch."""
        c, inv = self.cfg, self.inversion
        w, k = c.weights, inv.classes
        z, y = self._draw(c.batch_size)
        x = self.generate(z, y)
        with torch.no_grad():
            copies = torch.cat([self.shots] * c.tar_copies)
            self.model(inv.augment(copies, seeded(0, "inversion", device=x.device)))
            targets = [_statistics(self.seen[n])[0] for n in inv.tar_layers]
        retained = self.model(x[y < k])
        target = self.model(x[y == k])
        means = [_statistics(self.seen[n])[0] for n in inv.tar_layers]
        answers, labels = torch.cat([retained, target]), torch.cat([y[y < k], y[y == k]])
        p = self.model(x).softmax(-1)
        statistics = [_statistics(self.seen[n]) for n in inv.bn_layers]
        features = self.seen[self.head]
        parts = {"ent": L.l_ent(answers, inv.labels[labels])}
        if w.aug:
            views = [self.model(inv.augment(x, self.rng)) for _ in range(c.augmentations)]
            parts["aug"] = L.l_aug(p, torch.stack(views).softmax(-1))
        parts["tar"] = L.l_tar(means, targets, c.squared)
        parts["bn"] = L.l_bn(
            [mean for mean, _ in statistics],
            [variance for _, variance in statistics],
            [cast(Tensor, norm.running_mean) for norm in self.norms.values()],
            [cast(Tensor, norm.running_var) for norm in self.norms.values()],
            c.squared,
        )
        parts["div"] = L.l_div(z, features, y, k + 1, c.div_scaled)
        if w.div_pixel:
            parts["div_pixel"] = L.l_div(z, x.flatten(1), y, k + 1, c.div_scaled)
        parts["tv"] = L.l_tv(x, c.tv_reduction)
        total = torch.stack([getattr(w, name) * v for name, v in parts.items()]).sum()
        return {"loss": total, **parts}

    def step(self) -> dict[str, Tensor]:
        """Forward, backward, Adam."""
        self.optimizer.zero_grad()
        losses = self.losses()
        losses["loss"].backward()
        self.optimizer.step()
        return losses

    def _draw(self, number: int) -> tuple[Tensor, Tensor]:
        """What ``Inversion.draw`` draws, from a random state of its own."""
        kept, self.inversion.rng = self.inversion.rng, self.rng
        try:
            return self.inversion.draw(number)
        finally:
            self.inversion.rng = kept


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and biased variances of the channels of (B, C, ...)."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    return x.mean(axes), x.var(axes, correction=0)


def bench(options: Options) -> list[Result]:
    """Forward pass, backward pass and Adam's step; no Lightning on either side."""
    return [_of(options, *case) for case in CASES[options.scale]]


def _of(options: Options, network: Network, changes: list[str]) -> Result:
    cfg = settings(options.scale, *changes)
    inversion, generator, shots = inversion_of(cfg, options.device, network)
    generator.train()
    usual = Straightforward(cfg, inversion, generator, shots)
    ours = step_of(inversion, 0, computing_of(cfg), options.device)
    slow, fast = usual.step(), ours()
    difference = max(
        float((slow[k] - v).detach().abs() / slow[k].detach().abs()) for k, v in fast.items()
    )
    times = in_turns(
        {
            "a pass for each part, D_e's statistics at each step": usual.step,
            "the batch, its augmentations; D_e's once": ours,
        },
        options.repeats,
        options.device,
    )
    name, width, (channels, height, columns) = network
    return Result(
        f"A step of inversion, {name} of width {width}, {channels}x{height}x{columns}, batch "
        f"{cfg.inversion.batch_size}, {cfg.inversion.augmentations} augmentations",
        against_the_first(times, dict.fromkeys(times, 1), "step"),
        {"largest difference of the losses at the first step, relative": difference},
    )
