"""What each stage gives in a tiny, seeded form, beside what was recorded of it.

    python -m tests.golden                    compare every stage with its record
    python -m tests.golden --record STAGE ... record stages anew, after their VERSION was raised

A stage is computed in float64, in few steps, from written or freshly drawn weights: other
processors and numbers of threads change the fifteenth digit, and nothing makes that grow. So the
tolerance can be narrow enough to see any change of the code. To change a tiny form itself, delete
its entry in tests/golden.json and record it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers import doubles, problem_of, small_classifier, small_net, small_task, sure_problem
from unlearn.baselines import BASELINES, Baseline, BaselineStage, FullAccess
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit
from unlearn.engine.predict import predict
from unlearn.engine.store import Entry
from unlearn.errors import UserError
from unlearn.evaluation import MEASURES, VERSION, Others, References, distances, evaluate
from unlearn.evaluation.references import complementary_halves
from unlearn.filtration import Filtration, FiltrationConfig, Proxy, knee
from unlearn.inversion import Generator, Inversion, InversionConfig
from unlearn.inversion.invert import Weights
from unlearn.methods import METHODS, MethodStage
from unlearn.models import ModelConfig
from unlearn.problem import Problem
from unlearn.relearning import INTENTIONS, Intention, Relearning, RelearningConfig
from unlearn.relearning.intentions.neg import Neg
from unlearn.standins import STANDINS, StandInStage
from unlearn.training import Training, TrainingConfig

RECORD = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-5  # relative
SMALL = 1e-9  # absolute, where numbers cancel

CPU = torch.device("cpu")
AUGMENT = Augment(padding=1, rotation=15.0, flip=True)
TARGET, CORRECT = 1, 3

# Numbers and lists of numbers by name, at any depth.
Values = dict[str, Any]


def summary(tensors: Mapping[str, Tensor]) -> Values:
    """Of each tensor its norm and its distance from a fixed one; neither is a small difference."""
    found: Values = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().double().flatten()
        fixed = torch.arange(1, len(flat) + 1, dtype=torch.float64).cos()
        found[name] = [float(flat.norm()), float((flat - fixed).norm())]
    return found


def entry(made: Entry) -> Values:
    """The state that a stage gives and its losses over the steps."""
    tensors, remark = made
    history = remark.get("history", [])
    losses = {k: [row[k] for row in history if k in row] for row in history for k in row}
    return {"state": summary(tensors), "losses": losses}


# --- the tiny forms


def given_images(number: int, size: int = 16) -> Tensor:
    """Images (number, 1, size, size) in [0, 1]."""
    return torch.rand(number, 1, size, size, generator=torch.Generator().manual_seed(4))


def given_model() -> nn.Module:
    """A network that was not trained, surer of its answers than such networks are."""
    model = small_net()
    with torch.no_grad():
        model.get_parameter("8.weight").mul_(6)
    return model


def given_problem() -> Problem:
    """The network and four images."""
    return problem_of(given_model(), given_images(4), TARGET, CORRECT, AUGMENT)


def given_generator() -> Generator:
    """One that was not trained, its weights large enough for images of all kinds."""
    torch.manual_seed(3)
    generator = Generator(5, (1, 16, 16), 4, 8).eval()
    for parameter in generator.parameters():
        parameter.data.mul_(4)
    return generator


def training() -> Values:
    found: Values = {}
    for schedule in ("constant", "onecycle"):
        cfg = TrainingConfig(2, 16, 0.02, 0.9, 1e-3, schedule, 0)
        stage = Training(cfg, ModelConfig("small_cnn", "batch", 4), AUGMENT)
        found[schedule] = entry(stage.make(small_classifier(), small_task(40).train, CPU, Fit()))
    return found


INVERSIONS = {
    "as in the paper": InversionConfig(
        steps=5, batch_size=12, z=8, width=2, weights=Weights(div_pixel=1.0), augmentations=2
    ),
    "switches": InversionConfig(
        steps=5,
        batch_size=12,
        z=8,
        width=2,
        schedule="cosine",
        emphasis=3.0,
        augmentations=1,
        tar_copies=2,
        tar_layers=["0", "3"],
        squared=False,
        div_scaled=False,
        tv_reduction="sum",
    ),
    "two generators": InversionConfig(steps=2, batch_size=12, z=8, width=2, generators=2),
}


def inversion() -> Values:
    return {
        name: entry(Inversion(cfg).make(given_problem(), Fit())) for name, cfg in INVERSIONS.items()
    }


FILTRATIONS = {
    "several shots": {},
    "one shot": {"shot_copies": 4},
    "whole class": {"whole_class": True, "drop_unmatched": True},
    "threshold": {"threshold": 0.9, "drop_unmatched": True},
    "own label": {"own_label": 2, "own_label_hard": True, "only_plus": True},
}


def filtration() -> Values:
    model, generator = given_model(), given_generator()
    with torch.no_grad():
        images = generator(torch.randn(30, 8), torch.arange(30) % 5)
        answers = model(images).argmax(-1)
    target = int(answers.mode().values)
    shots = images[answers == target][:6]
    found: Values = {"knee": dict(knees())}
    for name, changes in FILTRATIONS.items():
        cfg = FiltrationConfig(
            per_condition=12, batch_size=16, rounds=2, augmentations=2, t_ent=0.78, bandwidths=[0.5]
        )
        given = shots[:1] if name == "one shot" else shots
        problem = problem_of(model, given, target, augment=AUGMENT)
        tensors, _ = Filtration(replace(cfg, **changes)).make(problem, generator)  # type: ignore[arg-type]
        found[name] = summary(tensors)
    return found


def knees() -> Iterator[tuple[str, float]]:
    """Thresholds of written curves: a knee within the shots' spread, below it, and none."""
    rising = np.linspace(0, 1, 300)
    curves = {
        "within": np.concatenate([0.3 * rising[::10], 0.95 + 0.05 * rising]),
        "early": np.concatenate([0.05 * np.sqrt(rising[::15]), 0.05 + 0.9 * rising**0.4]),
        "none": np.full(50, 0.7),
    }
    for name, curve in curves.items():
        for low, high in ((0.2, 0.99), (0.35, 0.5), (0.6, 0.8)):
            yield f"{name}, {low} to {high}", knee.threshold(curve, np.array([low, high]))[0]


def relearning() -> Values:
    cases: dict[str, tuple[Intention, dict[str, Any]]] = {
        **{name: (INTENTIONS[name](), {}) for name in INTENTIONS},
        "neg complementary": (Neg(form="complementary"), {"batchnorm": "frozen"}),
        "neg second": (Neg(form="second"), {"temperature": 2.0, "forget_weight": 3.0}),
        "neg clipped": (Neg(scrub_epochs=1), {"clip": 0.1, "shot_copies": 0}),
        "fresh": (Neg(), {"fresh": True, "candidates": 2}),
        "cosine": (Neg(), {"schedule": "cosine"}),
        "mixup": (Neg(), {"teacher": "view", "mixup": 0.5}),
        "adversarial": (Neg(), {"teacher": "view", "adversarial": 0.1}),
        "adversarial D~_e": (
            INTENTIONS["cor"](),
            {"teacher": "view", "adversarial": 0.1, "adversarial_forget": 0.2},
        ),
        "teacher": (Neg(), {"teacher": "view", "anchor": 0.5, "own_label_weight": 2.0}),
        "restraint": (INTENTIONS["cor"](), {"stop": 0.5, "interpolate": 0.9, "forget": "shots"}),
    }
    found: Values = {}
    for name, (intention, changes) in cases.items():
        cfg = RelearningConfig(3, 12, 0.01, 0.9, 1e-3, shot_copies=2)
        problem, generator = given_problem(), given_generator()
        proxy = given_proxy(problem, generator, whole=name == "neg second")
        sampler = Filtration(FiltrationConfig(augmentations=1, t_ent=0.78)).sampler(
            problem, generator
        )
        stage = Relearning(replace(cfg, **changes), intention, (CORRECT,))
        found[name] = entry(stage.make(problem, proxy, sampler, Fit()))
    return found


@torch.no_grad()
def given_proxy(problem: Problem, generator: Generator, whole: bool) -> Proxy:
    """Thirty samples, the first ten of them target-like."""
    rng = torch.Generator().manual_seed(5)
    conditions = torch.arange(30) % 5
    made = generator(torch.randn(30, 8, generator=rng), conditions)
    images = (made * 255).round().to(torch.uint8)
    like, dropped = torch.arange(30) < 10, torch.arange(30) > 27
    return Proxy(
        images,
        problem.original(images / 255).softmax(-1),
        conditions,
        torch.linspace(0.1, 0.9, 30),
        torch.tensor([0.2, 0.4]),
        like,
        dropped,
        torch.tensor(0.5),
        torch.tensor([1.0]),
        torch.tensor(whole),
    )


STANDIN_SETTINGS: dict[str, dict[str, Any]] = {
    "noise": {},
    "patches": {"size": 4},
    "untrained": {"width": 2},
}


def standin(name: str) -> Values:
    made_by = STANDINS[name](name=name, **STANDIN_SETTINGS[name])
    cfg = FiltrationConfig(per_condition=4)
    return summary(StandInStage(made_by, cfg).make(given_problem())[0])


# Shares of moving weights lie where two gradients are far apart: rounding swaps no weights.
FINETUNED = {"epochs": 2, "batch_size": 12, "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-3}
BASELINE_SETTINGS: dict[str, dict[str, Any]] = {
    "finetune": {**FINETUNED, "batchnorm": "train"},
    "neggrad_plus": {**FINETUNED, "batchnorm": "frozen", "alpha": 0.9},
    "scrub": {
        **FINETUNED,
        "batchnorm": "train",
        "max_epochs": 1,
        "gamma": 0.9,
        "alpha": 0.1,
        "temperature": 4.0,
    },
    "salun": {**FINETUNED, "batchnorm": "frozen", "moving": 0.37553},
    "ssd": {"alpha": 1.5, "dampening": 0.8, "batch_size": 7},
    "oracle": {},
    "logit_mask": {},
    "fisher": {"alpha": 1e-3, "clamp": 1e3, "clamp_last": 1e2, "boost": 10.0, "batch_size": 7},
    "incompetent": {
        "retained": 0.5,
        "epochs": 2,
        "batch_size": 8,
        "lr": 1e-3,
        "batchnorm": "train",
    },
    "neutralized": {
        "scrub_epochs": 2,
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.01,
        "momentum": 0.9,
        "alpha": 0.5,
        "temperature": 2.0,
    },
}


METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "ascent": {"batch_size": 4},
    "random_label": {"moving": 0.3773},
    "delete": {"weight_decay": 1e-3},
    "boundary_shrink": {},
    "mu_mis": {},
    "adv_imp": {"eps": 0.5, "iterations": 2, "copies": 3, "copies_in_step": 8},
    "finetune_shots": {"batchnorm": "train"},
    "pour": {},
}


def method(name: str) -> Values:
    """Three steps, too small for any shot to be called otherwise."""
    few = {} if name == "pour" else {"lr": 1e-5, "steps": 3}
    made = METHODS[name](name=name, **few, **METHOD_SETTINGS[name])
    intention = INTENTIONS["cor" if made.needs_correct_label else "neg"]()
    return entry(MethodStage(made, intention).make(sure_problem(), Fit()))


def written_classifier(seed: int = 1) -> nn.Module:
    """A classifier that was not trained but has seen images, in eval mode."""
    model = small_classifier(seed)
    with torch.no_grad():
        for _ in range(5):
            model(torch.rand(16, 1, 8, 8))
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model.eval().requires_grad_(False)


def baseline(name: str) -> Values:
    made: Baseline = BASELINES[name](name=name, **BASELINE_SETTINGS[name])
    task = small_task(40)
    task.correct = CORRECT
    chosen = list(INTENTIONS) if "intention" in made.uses else ["neg"]
    found: Values = {}
    for intention in chosen:
        access = FullAccess(
            written_classifier(),
            task,
            task.forget & (torch.arange(40) % 16 < 4 if "shot" in made.uses else True),
            INTENTIONS[intention](),
            TrainingConfig(2, 16, 0.02, 0.9, 1e-3, "constant", 0),
            AUGMENT,
            small_classifier,
            seed=3,
        )
        found[intention] = entry(BaselineStage(made, {}).make(access))
    return found


def written_softmax(*shape: int) -> Tensor:
    """Probabilities of a written form."""
    return (3 * torch.arange(math.prod(shape), dtype=torch.float64).cos()).view(shape).softmax(-1)


def evaluation() -> Values:
    task, model, other = small_task(80), written_classifier(), written_classifier(2)
    names = [n for n in MEASURES if MEASURES[n].__module__.startswith("unlearn.")]
    ours, theirs = (evaluate(m, task, 0, names) for m in (model, other))
    p, q = ours.test.probabilities, theirs.test.probabilities
    references = References(
        complementary_halves(80, 4, 0),
        written_softmax(4, int(task.forget.sum()), 4),
        written_softmax(4, 40, 4),
    )
    others = Others(oracle=lambda: other, references=lambda: references)
    asked = evaluate(model, task, 0, ["linear_probe", "rmia"], others)
    return {
        "measures": ours.metrics,
        "on request": asked.metrics,
        "distances": distances(p, q, task.test_forget, ours.metrics, theirs.metrics),
        "predicted": predict(model, task.test.x).tolist(),
    }


@dataclass(frozen=True)
class Golden:
    """A stage: its VERSION, and its numbers in a tiny form."""

    version: int
    compute: Callable[[], Values]


STAGES: dict[str, Golden] = {
    "training": Golden(Training.VERSION, training),
    "inversion": Golden(Inversion.VERSION, inversion),
    "filtration": Golden(Filtration.VERSION, filtration),
    "relearning": Golden(Relearning.VERSION, relearning),
    "evaluation": Golden(VERSION, evaluation),
    **{name: Golden(METHODS[name].VERSION, partial(method, name)) for name in METHOD_SETTINGS},
    **{name: Golden(STANDINS[name].VERSION, partial(standin, name)) for name in STANDIN_SETTINGS},
    **{
        name: Golden(BASELINES[name].VERSION, partial(baseline, name)) for name in BASELINE_SETTINGS
    },
}


# --- comparing and recording


def computed(stage: str) -> Values:
    """What a stage gives now; an error of the stage is a value too."""
    with doubles():
        torch.manual_seed(0)
        try:
            return STAGES[stage].compute()
        except UserError as error:
            return {"error": str(error)}


def flat(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers within, by their path."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from flat(value, f"{path}/{key}")
    elif isinstance(values, list):
        for i, value in enumerate(values):
            yield from flat(value, f"{path}/{i}")
    else:
        yield path[1:], values


def same(a: Any, b: Any) -> bool:
    """Whether two numbers differ by rounding only."""
    if isinstance(a, str) or isinstance(b, str):
        return bool(a == b)
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=SMALL)


def remedy(stage: str) -> str:
    """The command that records a stage."""
    return f"python -m tests.golden --record {stage}"


def compare(stage: str, found: Values, record: Mapping[str, Any]) -> str:
    """What is wrong with a stage's numbers, in words; empty if nothing is."""
    version = STAGES[stage].version
    if stage not in record:
        return f"stage {stage} is not recorded: {remedy(stage)}"
    known = record[stage]
    if known["version"] != version:
        return (
            f"stage {stage} is recorded at VERSION {known['version']} and has VERSION {version}: "
            f"{remedy(stage)}"
        )
    old, new = dict(flat(known["values"])), dict(flat(found))
    other = [k for k in old if k not in new or not same(old[k], new[k])]
    if other:
        lines = [f"  {k}: {old[k]} recorded, {new.get(k, 'nothing')} now" for k in other[:5]]
        first = f"stage {stage} gives other numbers: raise its VERSION (or undo the change)"
        return "\n".join([first, *lines, f"  {len(other)} of {len(old)} numbers differ"])
    if more := [k for k in new if k not in old]:
        return f"stage {stage} has numbers that are not recorded ({more[0]}): {remedy(stage)}"
    return ""


def load(path: Path = RECORD) -> dict[str, Any]:
    """What was recorded."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def keep(stage: str, path: Path = RECORD) -> str:
    """Record a stage; refuse, in words, where its numbers changed and its VERSION did not."""
    record, found = load(path), computed(stage)
    wrong = compare(stage, found, record)
    if "gives other numbers" in wrong:
        return wrong
    record[stage] = {"version": STAGES[stage].version, "values": found}
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return ""


def main(arguments: Sequence[str] | None = None, path: Path = RECORD) -> int:
    """Compare or record; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", nargs="+", choices=[*STAGES, "all"], metavar="STAGE")
    chosen = parser.parse_args(arguments).record
    if chosen:
        names = list(STAGES) if "all" in chosen else chosen
        wrong = [keep(stage, path) for stage in names]
    else:
        wrong = [compare(stage, computed(stage), load(path)) for stage in STAGES]
    for line in filter(None, wrong):
        print(line, file=sys.stderr)
    return int(any(wrong))


if __name__ == "__main__":
    sys.exit(main())
