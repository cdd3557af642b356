"""A step of inversion against its plain form: every pair of images, every image of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import unlearn.inversion.losses as L
from unlearn.config import Config
from unlearn.engine.fitting import laid_out
from unlearn.engine.precision import Precision, forward
from unlearn.inversion import Inverter, build_generator

from .measure import Options, Result, against_the_first, in_turns
from .subjects import problem_of, settings, subject


class Plain(Inverter):
    """The same losses written plainly, and a pass for each of their parts."""

    def losses(self, batch: Any) -> dict[str, Tensor]:
        w, c = self.cfg.weights, self.cfg
        z, y = self.draw(c.batch_size)
        x = forward(self.generator, z, y)
        views = [self.augment(x, self.rng) for _ in range(c.augmentations)]
        with self.probe as probe:
            logits, embedding = probe(x)
            inputs = {n: v.to(x.dtype) for n, v in probe.seen.inputs.items()}
        p, *q = (forward(self.frozen["f_o"], v).softmax(-1) for v in (x, *views))
        plus = [inputs[n][y == self.classes].transpose(0, 1).flatten(1) for n in self.tar_layers]
        seen = [inputs[n].transpose(0, 1).flatten(1) for n in self.bn_layers]
        parts = {
            "ent": L.l_ent(logits, self.labels[y]),
            "aug": L.l_aug(p, torch.stack(q)),
            "tar": L.l_tar([v.mean(1) for v in plus], self.targets[0], c.squared),
            "bn": L.l_bn(
                [v.mean(1) for v in seen],
                [v.var(1, correction=0) for v in seen],
                *self.running,
                squared=c.squared,
            ),
            "div": l_div(z, embedding, y, c.div_scaled),
            "div_pixel": l_div(z, x.flatten(1), y, c.div_scaled),
            "tv": L.l_tv(x, c.tv_reduction),
        }
        total = torch.stack([getattr(w, k) * v for k, v in parts.items()]).sum()
        return {"loss": total, **parts}


def l_div(z: Tensor, f: Tensor, y: Tensor, scaled: bool) -> Tensor:
    """Eq. 5 from the distances of all images."""
    z_distance, f_distance = torch.cdist(z, z), torch.cdist(f, f, p=1.0)
    if scaled:
        z_distance = z_distance / (2 * z.shape[1]) ** 0.5
        f_distance = f_distance / f.detach().abs().sum(1).mean()
    both = z_distance * f_distance
    return torch.stack([(-both[y == c][:, y == c].mean()).exp() for c in y.unique()]).mean()


def bench(options: Options) -> list[Result]:
    """Both ways in turns, and how far apart their first losses and gradients are in float32."""
    cfg, device = settings(options.scale), options.device
    plain, ours = (module_of(kind, cfg, device) for kind in (Plain, Inverter))
    precision = Precision(cfg.precision)
    difference = apart(gradients(plain), gradients(ours))
    ways = {"plain": step_of(plain, precision), "ours": step_of(ours, precision)}
    with laid_out([ours.generator, *ours.frozen.values()], precision, device):
        times = in_turns(ways, options.repeats, device)
    return [
        Result(
            f"A step of inversion, {subject(cfg)}, batch {cfg.inversion.batch_size}, "
            f"{cfg.inversion.augmentations} augmentation(s), {precision.in_words(device)}",
            against_the_first(times, dict.fromkeys(times, 1), "step"),
            {"largest difference of a loss or of the gradient, relative": difference},
        )
    ]


def module_of(kind: type[Inverter], cfg: Config, device: torch.device) -> Inverter:
    """A stage about to begin, the same for every kind."""
    problem = problem_of(cfg, device)
    generator = build_generator(cfg.inversion, problem.classes, problem.shape, problem.seed)
    return kind(cfg.inversion, generator.to(device).train(), problem)


def step_of(module: Inverter, precision: Precision) -> Callable[[], None]:
    """One step of the generator."""
    made = module.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    passes = precision.passes(module.labels.device, module.steps)

    def step() -> None:
        optimizer.zero_grad()
        with passes.here():
            losses = module.losses(0)
        losses["loss"].backward()
        optimizer.step()

    return step


def gradients(module: Inverter) -> dict[str, Tensor]:
    """The losses of a first step, and the generator's gradient; the module stays as it is."""
    before = module.rng.get_state()
    losses = module.losses(0)
    losses["loss"].backward()
    found = [p.grad.flatten() for p in module.generator.parameters() if p.grad is not None]
    module.zero_grad()
    module.rng.set_state(before)
    return {**{k: v.detach() for k, v in losses.items()}, "gradient": torch.cat(found)}


def apart(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The largest relative difference of any."""
    return max(float((one[k] - two[k]).norm() / one[k].norm()) for k in one)
