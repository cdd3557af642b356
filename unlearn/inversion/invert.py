"""Training the generator against the original model and the statistics of the shots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

import unlearn.inversion.losses as L
from unlearn.engine.fitting import Fit, LossModule, annealed, gpu_layout
from unlearn.engine.precision import forward
from unlearn.engine.seeding import seeded, seeded_init
from unlearn.engine.stages import Stage, later, settings_of
from unlearn.engine.statistics import (
    Rows,
    channel_means,
    channel_statistics,
    statistics_and_means,
)
from unlearn.engine.store import Entry, state_of
from unlearn.errors import UserError
from unlearn.inversion.generator import AnyGenerator, Generator, Generators
from unlearn.models.probe import running_norms, watched_layers
from unlearn.problem import Problem

T = TypeVar("T")


@dataclass
class Weights:
    """Weight of each loss; 0 switches it off."""

    ent: float = 3.0
    aug: float = 3.0
    tar: float = 3.0
    bn: float = 3.0
    div: float = 1.0
    div_pixel: float = 0.0
    tv: float = 1.0


@dataclass
class InversionConfig:
    """How the generator is trained; conf/scale/paper.yaml tells where the values are from."""

    steps: int = 7000
    batch_size: int = 256
    lr: float = 2e-3
    betas: list[float] = field(default_factory=lambda: [0.5, 0.999])
    weight_decay: float = 2e-4
    schedule: str = "constant"
    generators: int = 1
    z: int = 100
    width: int = 16
    emphasis: float = 1.0
    weights: Weights = field(default_factory=Weights)
    augmentations: int = 4
    prior: str = later("running")
    tar_copies: int = 5
    tar_layers: list[str] | None = None
    squared: bool = True
    div_scaled: bool = True
    tv_reduction: str = "mean"
    grid_every: int = 1000


def build_generator(
    cfg: InversionConfig, classes: int, shape: tuple[int, int, int], seed: int, plus: int = 1
) -> Generator:
    """A freshly initialised generator over the classes and after them y+.

    Args:
        plus: how many y+ there are, one for each label of D_e.
    """
    with seeded_init(seed, "generator"):
        return Generator(classes + plus, shape, cfg.width, cfg.z, cfg.emphasis)


class Inverter(LossModule):
    """One step: generate, pass the images and then all their augmentations through f_o, descend.

    Args:
        generator: G, trained in place.

    Raises:
        UserError: if a batch cannot hold every condition.
    """

    stage = "inversion"

    def __init__(self, cfg: InversionConfig, generator: Generator, problem: Problem) -> None:
        super().__init__(cfg.steps)
        classes, device = problem.classes, problem.device
        self.number = classes + len(problem.targets)
        if cfg.batch_size < self.number:
            raise UserError(
                "inversion.batch_size",
                f"{cfg.batch_size} is fewer than the {self.number} conditions (classes and y+)",
            )
        self.cfg, self.generator, self.classes = cfg, generator, classes
        self.most = -(-cfg.batch_size // self.number)  # rows of a condition; see ``draw``
        self.augment = problem.augment
        self.rng = seeded(problem.seed, "inversion", device=device)
        original = problem.original
        self.frozen = {"f_o": original}
        norms, part = running_norms(original, problem.part), problem.part
        of_shots = cfg.prior == "shots" and cfg.weights.bn > 0
        watched: tuple[str, ...] = ()
        if cfg.weights.tar or of_shots:
            watched = watched_layers(original, cfg.tar_layers, part)
        self.tar_layers = watched if cfg.weights.tar else ()
        self.bn_layers = watched if of_shots else tuple(norms) if cfg.weights.bn else ()
        self.probe = problem.probe(tuple(dict.fromkeys(self.bn_layers + self.tar_layers)))
        self.labels = torch.cat(
            [torch.arange(classes, device=device), torch.tensor(problem.targets, device=device)]
        )
        self.targets = [
            self._of_shots(problem.shots_of(t), self.tar_layers, channel_means)
            for t in problem.targets
        ]
        self.running = _running(norms)
        if of_shots:
            both = self._of_shots(problem.shots, self.bn_layers, channel_statistics)
            self.running = [mean for mean, _ in both], [variance for _, variance in both]

    @torch.no_grad()
    def _of_shots(self, shots: Tensor, layers: Sequence[str], of: Callable[[Tensor], T]) -> list[T]:
        """Statistics of layers' inputs on augmented copies of the shots."""
        if not layers:
            return []
        copies = torch.cat([shots] * self.cfg.tar_copies)
        with self.probe as probe:
            probe(self.augment(copies, self.rng))
            found = [of(probe.seen.inputs[n]) for n in layers]
        self.probe.seen.inputs.clear()
        return found

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Noise (number, z) and conditions (number,), as even over Y+ as ``number`` allows."""
        device = self.labels.device
        z = torch.randn(number, self.cfg.z, device=device, generator=self.rng)
        first = torch.randint(self.number, (1,), device=device, generator=self.rng)
        y = (torch.arange(number, device=device) + first) % self.number
        return z, y

    def _plus(self, y: Tensor, which: int) -> Rows:
        """The rows of one of the conditions y+; chosen so that the host waits for no GPU."""
        own = (y == self.classes + which).to(torch.int8)
        index = own.argsort(descending=True, stable=True)[: self.most]
        weights = own[index].to(torch.get_default_dtype())
        return Rows(index, weights / weights.sum())

    def losses(self, batch: Any) -> dict[str, Tensor]:
        w, b = self.cfg.weights, self.cfg.batch_size
        z, y = self.draw(b)
        x = forward(self.generator, z, y)
        number = self.cfg.augmentations if w.aug else 0
        views = [self.augment(x, self.rng) for _ in range(number)]
        if views and x.device.type != "cpu":
            # One pass; a CPU's cache likes the augmentations better one by one.
            views = [torch.cat(views)]
        with self.probe as probe:
            logits, embedding = probe(x)
            inputs = dict(probe.seen.inputs)
        logits = torch.cat([logits, *(forward(self.frozen["f_o"], v) for v in views)])
        logits = logits.view(1 + number, b, -1)
        parts = {"ent": L.l_ent(logits[0], self.labels[y])}
        if w.aug:
            p = logits.softmax(-1)
            parts["aug"] = L.l_aug(p[0], p[1:])
        parts |= self._statistics(inputs, y)
        if w.div or w.div_pixel:
            same = L.Conditions.of(y, self.number, self.most)
            features = {"div": embedding, "div_pixel": x.flatten(1)}
            for name, f in features.items():
                if getattr(w, name):
                    parts[name] = L.l_div(z, f, same, self.cfg.div_scaled)
        if w.tv:
            parts["tv"] = L.l_tv(x, self.cfg.tv_reduction)
        total = torch.stack([getattr(w, k) * v for k, v in parts.items()]).sum()
        return {"loss": total, **parts}

    def _statistics(self, inputs: dict[str, Tensor], y: Tensor) -> dict[str, Tensor]:
        """l_tar and l_bn, as far as they are wanted, of the layers' inputs."""
        pluses = [self._plus(y, i) for i in range(len(self.targets))] if self.tar_layers else []
        means: dict[str, Tensor] = {}
        seen: list[tuple[Tensor, Tensor]] = []
        for n in self.bn_layers:
            if n in self.tar_layers:
                mean, variance, means[n] = statistics_and_means(inputs[n], pluses[0])
                seen.append((mean, variance))
            else:
                seen.append(channel_statistics(inputs[n]))
        parts = {}
        if pluses:
            # Of several labels, a sum: each y+ is drawn to its own shots as strongly as if alone.
            gaps = []
            for plus, targets in zip(pluses, self.targets, strict=True):
                known = means if plus is pluses[0] else {}
                mu = [known[n] if n in known else plus.means(inputs[n]) for n in self.tar_layers]
                gaps.append(L.l_tar(mu, targets, self.cfg.squared))
            parts["tar"] = torch.stack(gaps).sum()
        if self.bn_layers:
            ours = [mean for mean, _ in seen], [variance for _, variance in seen]
            parts["bn"] = L.l_bn(*ours, *self.running, squared=self.cfg.squared)
        return parts

    def configure_optimizers(self) -> Any:
        c = self.cfg
        optimizer = torch.optim.Adam(
            self.generator.parameters(),
            lr=c.lr,
            betas=(c.betas[0], c.betas[1]),
            weight_decay=c.weight_decay,
            fused=self.fused,
        )
        return annealed(optimizer, c.steps) if c.schedule == "cosine" else optimizer


class Inversion(Stage):
    """The generator, trained against f_o and the statistics of the shots."""

    name = "inversion"
    VERSION = 2

    def __init__(self, cfg: InversionConfig) -> None:
        self.cfg = cfg

    def key(self) -> dict[str, Any]:
        return settings_of(replace(self.cfg, grid_every=0))  # that only shows something

    def make(self, problem: Problem, fit: Fit) -> Entry:
        """Train a generator.

        Raises:
            TrainingDiverged: at a NaN or infinite loss.
        """
        fit, steps, history = replace(fit, watch=None), self.cfg.steps, []
        parts = self._fresh(problem)
        for i, part in enumerate(parts):
            own = replace(problem, seed=self._seed(problem, i))
            module = Inverter(self.cfg, part.train(), own)
            rows = fit.run(module, list(range(steps)), problem.device)
            history += [{**row, "step": row["step"] + i * steps} for row in rows]
        return state_of(joined(parts)), {"history": history}

    def generator(self, problem: Problem, state: dict[str, Tensor]) -> AnyGenerator:
        """The trained generator, in eval mode."""
        generator = joined(self._fresh(problem))
        generator.load_state_dict(state)
        return generator.eval()

    def _fresh(self, problem: Problem) -> list[Generator]:
        seeds = [self._seed(problem, i) for i in range(self.cfg.generators)]
        plus = len(problem.targets)
        built = [build_generator(self.cfg, problem.classes, problem.shape, s, plus) for s in seeds]
        return [gpu_layout(generator.to(problem.device)) for generator in built]

    @staticmethod
    def _seed(problem: Problem, part: int) -> int:
        """The first generator has the run's own seed."""
        return problem.seed if part == 0 else seeded(problem.seed, f"part {part}").initial_seed()


def joined(parts: list[Generator]) -> AnyGenerator:
    """Several generators as one; one as it is."""
    return parts[0] if len(parts) == 1 else Generators(parts)


def _running(norms: dict[str, nn.Module]) -> tuple[list[Tensor], list[Tensor]]:
    """Running means and variances of BatchNorm layers, each (channels,)."""
    means = [cast(Tensor, norm.running_mean) for norm in norms.values()]
    return means, [cast(Tensor, norm.running_var) for norm in norms.values()]
