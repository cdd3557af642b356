"""What everybody on the page shares: the model, the settings, the store, the line of jobs."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from unlearn.config import Config, check, resolve, unlearner_settings
from unlearn.config.checks import check_all_given, check_loggers, refuse_data
from unlearn.config.ranges import check_ranges
from unlearn.data.shots import Wanted
from unlearn.engine.device import pick_device
from unlearn.engine.fitting import Fit
from unlearn.engine.stages import Stages
from unlearn.engine.store import state_of, write_tensors
from unlearn.errors import UserError, choices
from unlearn.forget import Settings
from unlearn.models import Loaded, load_model
from unlearn.models.saving import Weights
from unlearn.page.work import Line
from unlearn.pipeline import original_model, stages_on
from unlearn.problem import Interface, Problem
from unlearn.relearning import INTENTIONS, Intention
from unlearn.scenarios import Own, Task, load_task, take_shots

log = logging.getLogger(__name__)

DEMO = ["scenario=7noisymnist", "intention=cor", "shot=0.3", "scale=demo"]
OWN = ["scenario=own"]
# How many test images of either part the demo shows.
SHOWN = 12


@dataclass(frozen=True)
class Choice:
    """What somebody wants.

    Attributes:
        label: what the model answers on the shots and shall not.
        intention: by name.
        correct: what they are; only ``cor`` needs it.
    """

    label: int
    intention: str
    correct: int | None = None


@dataclass(frozen=True)
class Example:
    """The demo's own images, uint8 (n, C, H, W), and what is to be done about them."""

    shots: Tensor
    test: Tensor
    choice: Choice


@dataclass(frozen=True)
class StateWeights(Weights):
    """A model that was trained here: its weights are a plain safetensors file."""

    path: str

    def write(self, network: nn.Module, to: Path) -> list[str]:
        write_tensors(to, state_of(network))
        return []


@dataclass
class Desk:
    """The model at hand, and how it is repaired.

    Attributes:
        configs: the settings with each intention.
        first: the intention that is chosen at first.
        loaded: the model.
        classes: the names of its classes.
        folder: of everybody's files, removed at the end; ``uploads`` in it is Gradio's.
        example: images to try it with, where there are some.
    """

    configs: dict[str, Config]
    first: str
    device: torch.device
    loaded: Loaded
    classes: list[str]
    folder: Path
    example: Example | None = None
    line: Line = field(default_factory=Line)

    @property
    def uploads(self) -> Path:
        """Where the server puts what is dropped on the page."""
        return self.folder / "uploads"

    @property
    def wanted(self) -> Wanted:
        """The images that the model takes."""
        return Wanted(self.loaded.channels, self.loaded.size)

    def settings(self, intention: str) -> tuple[Config, Settings, Intention]:
        """The settings with an intention.

        Raises:
            UserError: if there is none of that name.
        """
        if intention not in self.configs:
            raise choices("intention", intention, self.configs)
        cfg = self.configs[intention]
        return cfg, unlearner_settings(cfg), cfg.intention

    def problem(self, shots: Tensor, choice: Choice) -> Problem:
        """The checked request to forget.

        Args:
            shots: uint8 (k, C, H, W).

        Raises:
            UserError: naming the argument.
        """
        cfg, _, intention = self.settings(choice.intention)
        k = len(shots)
        right = choice.correct if intention.needs_correct_label else None
        problem = Problem.of(
            self.loaded.network,
            shots.to(torch.get_default_dtype()) / 255,
            torch.full((k,), choice.label),
            None if right is None else torch.full((k,), right),
            cfg.augment,
            cfg.seed,
            Interface(cfg.model.penultimate, self.loaded.normalize),
        )
        intention.check(choice.label, right)
        return problem

    def stages(self, problem: Problem) -> Stages:
        """Its stages, in the store."""
        return stages_on(problem.key, self.configs[self.first], self.device)

    def close(self) -> None:
        """Stop the work and remove everybody's files."""
        self.line.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def open_desk(overrides: Sequence[str]) -> Desk:
    """Check the settings, load the model or train the demo's.

    Args:
        overrides: as on the command line. With ``model=`` and no ``scenario=`` they are those of
            ``scenario=own``; without both, the demo's.

    Raises:
        UserError: naming the setting that is missing or cannot be.
    """
    given = with_defaults(overrides)
    cfg = resolve(given)
    check_ours(cfg)
    configs = {
        name: cfg if name == cfg.intention.name else resolve(last_of([*given, f"intention={name}"]))
        for name in INTENTIONS
        if not cfg.scenario.needs_data
        or cfg.scenario.knows_correct
        or not INTENTIONS[name].needs_correct_label
    }
    device = pick_device(cfg.device)
    cfg.networks.check(device)
    folder = Path(tempfile.mkdtemp(prefix="unlearn-page-"))
    try:
        if cfg.scenario.needs_data:
            loaded, classes, example = trained(cfg, device)
        else:
            loaded = load_model(cfg.model)
            loaded.network.to(device)
            classes, example = cast(Own, cfg.scenario).class_names(loaded), None
        (folder / "uploads").mkdir()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    log.info("model: %s", loaded.said)
    return Desk(configs, cfg.intention.name, device, loaded, classes, folder, example)


def with_defaults(overrides: Sequence[str]) -> list[str]:
    """Settings with what they leave open.

    Example:
        >>> with_defaults(["model=timm", "scale=demo"])
        ['scenario=own', 'model=timm', 'scale=demo']
        >>> with_defaults(["intention=neg"])
        ['scenario=7noisymnist', 'intention=neg', 'shot=0.3', 'scale=demo']
    """
    if any(o.startswith("scenario=") for o in overrides):
        return last_of(overrides)
    own = any(o.startswith("model=") for o in overrides)
    return last_of([*(OWN if own else DEMO), *overrides])


def last_of(overrides: Sequence[str]) -> list[str]:
    """Each setting once, as it is given last."""
    return list({o.partition("=")[0]: o for o in overrides}.values())


def check_ours(cfg: Config) -> None:
    """Refuse what the page cannot do, before any work.

    Raises:
        UserError: naming the setting.
    """
    for key, other in (("baseline", cfg.baseline), ("proxy", cfg.proxy)):
        if other is not None:
            raise UserError(key, f"{other.name}: the page shows our own method; leave it out")
    if cfg.scenario.needs_data:
        check(cfg)
        return
    for name in ("shots", "label", "correct", "test", "test_forget"):
        if getattr(cfg.scenario, name) is not None:
            raise UserError(f"scenario.{name}", "is given on the page; leave it out")
    check_ranges(cfg)
    check_loggers(cfg.logger)
    refuse_data(cfg)
    check_all_given(cfg, 1)  # the recipes ask for one; how many will come is not known
    cfg.model.check()


def trained(cfg: Config, device: torch.device) -> tuple[Loaded, list[str], Example]:
    """The original model of a scenario, trained or from the store, and images to try it with."""
    task = load_task(cfg.scenario, cfg.data, Path(cfg.data_dir), cfg.image_size, cfg.per_class)
    fit = Fit((), None, True, None, cfg.networks)
    network, _ = original_model(cfg, task, device, fit)
    channels, *size = task.shape
    said = f"{cfg.scenario.name}, images of {channels}x{size[0]}x{size[1]}"
    loaded = Loaded(
        network, StateWeights("original.safetensors"), channels, (size[0], size[1]), None,
        len(task.classes), task.classes, f"{said}; {len(task.classes)} classes",
    )  # fmt: skip
    return loaded, task.classes, example_of(cfg, task)


def example_of(cfg: Config, task: Task) -> Example:
    """The shots of a scenario, and test images: some like them, some others."""
    shots = (take_shots(task, cfg.shot, cfg.seed).images * 255).round().to(torch.uint8)
    like = task.test.x[task.test_forget][:SHOWN]
    others = task.test.x[~task.test_forget]
    spread = torch.linspace(0, len(others) - 1, SHOWN).long()
    choice = Choice(task.target, cfg.intention.name, task.correct)
    return Example(shots, torch.cat([like, others[spread]]), choice)
