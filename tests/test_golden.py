"""Each stage gives the numbers that were recorded at its VERSION; a changed stage does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.svm import SVC
from torch import Tensor

from tests import golden
from unlearn.baselines import BASELINES, diagonal, fisher, incompetent, logit_mask, neutralized
from unlearn.engine.augment import Augment
from unlearn.evaluation import MEASURES, attacks
from unlearn.filtration import knee
from unlearn.inversion import Inverter, losses
from unlearn.methods import METHODS, adv_imp, steps
from unlearn.relearning import INTENTIONS, lesson, relearn
from unlearn.relearning.intentions.cor import Cor
from unlearn.relearning.intentions.neg import Neg
from unlearn.relearning.intentions.unt import Unt
from unlearn.standins import STANDINS
from unlearn.training import Trainer

Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("stage", golden.STAGES)
def test_a_stage_gives_what_was_recorded(stage: str) -> None:
    assert golden.compare(stage, golden.computed(stage), golden.load()) == ""


def test_every_stage_is_recorded() -> None:
    record = golden.load()
    baselines = set(BASELINES.list()) - {"original"}  # which computes nothing
    stages = {"training", "inversion", "filtration", "relearning", "evaluation"}
    others = baselines | set(STANDINS) | set(METHODS)
    assert set(record) == set(golden.STAGES) == stages | others
    assert set(INTENTIONS) <= set(record["relearning"]["values"])
    assert set(INTENTIONS) == set(record["oracle"]["values"])
    measured = record["evaluation"]["values"]["measures"]
    for name in ("D_r", "asr_D_e", "mia_D_e_auc", "norm_D_e"):
        assert name in measured
    assert {MEASURES[n].__module__.split(".")[0] for n in MEASURES} >= {"unlearn"}


# --- what must be noticed


def scaled(patch: Patch, owner: Any, name: str, factor: float) -> None:
    """A function that gives other numbers than before."""
    plain = getattr(owner, name)
    patch.setattr(owner, name, lambda *a, **k: factor * plain(*a, **k))


def other_knee(patch: Patch) -> None:
    patch.setattr(knee, "knee", lambda curve, _: float(sorted(curve)[len(curve) // 2]))


def no_guard(patch: Patch) -> None:
    plain = knee.threshold
    patch.setattr(knee, "threshold", lambda d, w, s=(1,): plain(d, w, s))


def mean_bandwidth(patch: Patch) -> None:
    module = sys.modules["unlearn.filtration.filtrate"]  # the package has a function of that name
    patch.setattr(module, "median_bandwidth", lambda x: torch.nn.functional.pdist(x).mean())


def wider_rotation(patch: Patch) -> None:
    plain = Augment.__call__

    def rotated(self: Augment, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return plain(replace(self, rotation=self.rotation + 1), x, rng)

    patch.setattr(Augment, "__call__", rotated)


def optimizer(owner: type, **changed: object) -> Callable[[Patch], None]:
    """The optimizer's settings, other than before."""

    def change(patch: Patch) -> None:
        plain = owner.configure_optimizers

        def configured(self: Any) -> Any:
            made = plain(self)
            chosen = made["optimizer"] if isinstance(made, dict) else made
            chosen.param_groups[0].update(changed)
            return made

        patch.setattr(owner, "configure_optimizers", configured)

    return change


def weight_of(name: str) -> Callable[[Patch], None]:
    """A loss of inversion that its weight counts otherwise."""
    return lambda patch: scaled(patch, losses, name, 1.01)


def weight_of_the_rest(patch: Patch) -> None:
    scaled(patch, relearn, "l_retain_each", 1.01)


def kept_class(patch: Patch) -> None:
    patch.setattr(lesson, "without", lambda p, _: p)


def smoothed(owner: type) -> Callable[[Patch], None]:
    """A relabelling that leaves a little to the other classes."""

    def change(patch: Patch) -> None:
        plain = owner.relabel

        def relabel(self: Any, images: Tensor, given: Any) -> Tensor:
            return 0.99 * plain(self, images, given) + 0.01 / 4

        patch.setattr(owner, "relabel", relabel)

    return change


def other_wrong_labels(patch: Patch) -> None:
    patch.setattr(neutralized, "contrastive_labels", lambda y, classes, rng: (y + 1) % classes)


def milder_attack(patch: Patch) -> None:
    patch.setattr(attacks, "SVC", lambda **k: SVC(**{**k, "gamma": 500.0}))


def swapped_teachers(patch: Patch) -> None:
    plain = incompetent.l_teachers
    patch.setattr(incompetent, "l_teachers", lambda s, good, bad, d_e: plain(s, bad, good, d_e))


def halved(x: Tensor) -> Tensor:
    """Half the norm of images (n, C, H, W)."""
    return x.square().sum((1, 2, 3), keepdim=True).sqrt() / 2


def brighter(name: str) -> Callable[[Patch], None]:
    """Other images of a stand-in."""

    def change(patch: Patch) -> None:
        plain = STANDINS[name].images
        patch.setattr(STANDINS[name], "images", lambda *a: plain(*a).sqrt())

    return change


CHANGES: dict[str, tuple[str, Callable[[Patch], None]]] = {
    "training: momentum": ("training", optimizer(Trainer, momentum=0.8)),
    "training: augmentation": ("training", wider_rotation),
    "inversion: Adam": ("inversion", optimizer(Inverter, betas=(0.6, 0.999))),
    "inversion: augmentation": ("inversion", wider_rotation),
    **{
        f"inversion: weight of {name}": ("inversion", weight_of(name))
        for name in ("l_ent", "l_aug", "l_tar", "l_bn", "l_div", "l_tv")
    },
    "filtration: knee": ("filtration", other_knee),
    "filtration: sensitivity": ("filtration", no_guard),
    "filtration: bandwidth": ("filtration", mean_bandwidth),
    "filtration: augmentation": ("filtration", wider_rotation),
    "relearning: momentum": ("relearning", optimizer(relearn.Relearner, momentum=0.8)),
    "relearning: weight of D~_r": ("relearning", weight_of_the_rest),
    "relearning: labels of cor": ("relearning", smoothed(Cor)),
    "relearning: labels of neg": ("relearning", smoothed(Neg)),
    "relearning: labels of unt": ("relearning", smoothed(Unt)),
    "relearning: a whole class": ("relearning", kept_class),
    "oracle: momentum": ("oracle", optimizer(Trainer, momentum=0.8)),
    "oracle: labels of cor": ("oracle", smoothed(Cor)),
    "incompetent: teachers": ("incompetent", swapped_teachers),
    "neutralized: wrong labels": ("neutralized", other_wrong_labels),
    "neutralized: distillation": (
        "neutralized",
        lambda patch: scaled(patch, neutralized, "l_retain", 1.01),
    ),
    "fisher: damping": ("fisher", lambda patch: patch.setattr(fisher, "DAMPING", 1e-3)),
    "fisher: root": ("fisher", lambda patch: scaled(patch, diagonal, "output_root", 1.01)),
    "logit_mask: value": (
        "logit_mask",
        lambda patch: patch.setattr(logit_mask, "MASKED", logit_mask.MASKED / 2),
    ),
    "ascent: BatchNorm": (
        "ascent",
        lambda patch: patch.setattr(steps, "freeze_batchnorm", lambda model: None),
    ),
    "adv_imp: attack": ("adv_imp", lambda patch: patch.setattr(adv_imp, "norms", halved)),
    **{f"{name}: images": (name, brighter(name)) for name in STANDINS},
    "evaluation: attack": ("evaluation", milder_attack),
    "evaluation: entropy": (
        "evaluation",
        lambda patch: patch.setattr(attacks, "entropy", lambda p: 1 - p.amax(-1)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change: str, monkeypatch: Patch) -> None:
    stage, make = CHANGES[change]
    make(monkeypatch)
    said = golden.compare(stage, golden.computed(stage), golden.load())
    first = f"stage {stage} gives other numbers: raise its VERSION (or undo the change)"
    assert said.splitlines()[0] == first


def test_an_error_of_a_stage_is_another_number(monkeypatch: Patch) -> None:
    monkeypatch.setattr(knee, "threshold", lambda *_: (0.0, None))  # nothing is target-like
    monkeypatch.setattr(
        sys.modules["unlearn.filtration.filtrate"], "threshold", lambda *_: (0.0, None)
    )
    said = golden.compare("filtration", golden.computed("filtration"), golden.load())
    assert said.startswith("stage filtration gives other numbers")


# --- recording


def test_a_raised_version_is_recorded_by_one_command(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "golden.json"
    assert golden.main(["--record", "logit_mask"], path) == 0
    before = json.loads(path.read_text())
    stage = golden.STAGES["logit_mask"]
    changed = replace(stage, compute=lambda: {"x": [1.0, 2.0]})

    monkeypatch.setitem(golden.STAGES, "logit_mask", changed)
    assert golden.main(["--record", "logit_mask"], path) == 1  # the VERSION is as before
    assert "raise its VERSION" in capsys.readouterr().err
    assert json.loads(path.read_text()) == before

    raised = replace(changed, version=stage.version + 1)
    monkeypatch.setitem(golden.STAGES, "logit_mask", raised)
    said = golden.compare("logit_mask", golden.computed("logit_mask"), golden.load(path))
    assert said.endswith(": python -m tests.golden --record logit_mask")
    assert golden.main(["--record", "logit_mask"], path) == 0
    assert json.loads(path.read_text())["logit_mask"] == {
        "version": stage.version + 1,
        "values": {"x": [1.0, 2.0]},
    }


def test_new_numbers_beside_the_recorded_ones_need_no_version() -> None:
    record = {"evaluation": {"version": golden.STAGES["evaluation"].version, "values": {"a": 1.0}}}
    said = golden.compare("evaluation", {"a": 1.0 + 1e-8, "b": 2.0}, record)
    assert said.startswith("stage evaluation has numbers that are not recorded (b): ")
    assert golden.compare("evaluation", {"a": 1.0 + 1e-8}, record) == ""
    assert "other numbers" in golden.compare("evaluation", {"a": 1.0 + 1e-4}, record)
    assert "other numbers" in golden.compare("evaluation", {}, record)
    assert "not recorded" in golden.compare("evaluation", {}, {})
