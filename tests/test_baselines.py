"""The baselines, each against a slow literal version or its defining property."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import unlearn
from tests.helpers import (
    PLAIN,
    QUICK,
    access_to,
    baseline_of,
    small_classifier,
    small_task,
)
from unlearn.baselines import BASELINES, FullAccess
from unlearn.baselines.incompetent import l_teachers
from unlearn.baselines.neutralized import contrastive_labels, l_distil
from unlearn.baselines.oracle import OracleTraining
from unlearn.config.checks import check
from unlearn.config.compose import resolve
from unlearn.data import Images
from unlearn.engine.predict import predict
from unlearn.engine.store import state_of
from unlearn.relearning import Given
from unlearn.relearning.intentions.neg import Neg
from unlearn.scenarios import SCENARIOS

TRAINED = ["oracle", "incompetent", "neutralized", "fisher", "logit_mask"]


@pytest.mark.parametrize("name", TRAINED)
def test_the_original_is_left_alone_and_the_seed_decides(name: str) -> None:
    access = access_to(small_task())
    before = state_of(access.original)
    states = [state_of(baseline_of(name).unlearn(access).model) for _ in range(2)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    torch.testing.assert_close(state_of(access.original), before, rtol=0, atol=0)
    other = state_of(baseline_of(name).unlearn(replace(access, seed=5)).model)
    same = all(torch.equal(other[k], states[0][k]) for k in other)
    assert same == ("seed" not in BASELINES[name].uses)


def test_the_oracle_is_a_fresh_network_not_the_original() -> None:
    access = access_to(small_task(), "std")
    access.training = replace(QUICK, epochs=1, lr=1e-12, momentum=0.0)
    outcome = baseline_of("oracle").unlearn(access)
    torch.testing.assert_close(
        dict(outcome.model.named_parameters()),
        dict(small_classifier().named_parameters()),
        atol=1e-6,
        rtol=0,
    )


def test_the_oracle_for_std_never_sees_the_given_images() -> None:
    """Other pixels in D_e, same result; other pixels in D_r, another one."""
    task = small_task()
    access = access_to(task, "std")
    first = state_of(baseline_of("oracle").unlearn(access).model)

    def with_noise(rows: Tensor) -> FullAccess:
        x = task.train.x.clone()
        x[rows] = 255 - x[rows]
        return replace(access, task=replace(task, train=Images(x, task.train.y)))

    changed = state_of(baseline_of("oracle").unlearn(with_noise(task.forget)).model)
    torch.testing.assert_close(first, changed, rtol=0, atol=0)
    changed = state_of(baseline_of("oracle").unlearn(with_noise(~task.forget)).model)
    assert any(not torch.equal(first[k], changed[k]) for k in first)


def test_what_is_not_given_stays_in_the_oracles_d_r() -> None:
    task = small_task()
    access = access_to(task, "std")
    access.given = task.forget & (torch.arange(len(task.forget)) % 16 < 4)
    assert 0 < int(access.given.sum()) < int(task.forget.sum())
    x = task.train.x.clone()
    left = task.forget & ~access.given
    x[left] = 255 - x[left]
    first = state_of(baseline_of("oracle").unlearn(access).model)
    other = replace(access, task=replace(task, train=Images(x, task.train.y)))
    second = state_of(baseline_of("oracle").unlearn(other).model)
    assert any(not torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("form", ["complementary", "ascent"])
def test_the_oracles_loss_is_one_mean_over_the_batch(form: str) -> None:
    torch.manual_seed(0)
    intention = Neg("neg", 0, form, 10.0)
    data = Images(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 1, 0]))
    given = torch.tensor([False, True, False, False, True, False])
    labels = F.one_hot(torch.ones(6, dtype=torch.long), 4).float()
    module = OracleTraining(QUICK, small_classifier(), data, PLAIN, intention, labels, given)
    rows = torch.tensor([4, 0, 1, 5])
    logits = torch.randn(4, 4)
    literal = []
    for row, logit in zip(rows.tolist(), logits, strict=True):
        p = logit.softmax(-1)
        if not given[row]:
            literal.append(-p[data.y[row]].log())
        elif form == "complementary":
            literal.append(-(1 - p[1]).log())
        else:
            literal.append(-torch.clamp(-p[1].log(), max=10))
    torch.testing.assert_close(module.loss(logits, rows), torch.stack(literal).mean())


@pytest.mark.parametrize("intention", ["std", "unt", "neg"])
def test_the_oracle_reaches_its_intention(intention: str) -> None:
    task = small_task(240)
    task.forget = task.train.y == 1
    access = access_to(task, intention)
    access.training = replace(QUICK, epochs=6)
    model = baseline_of("oracle").unlearn(access).model
    right = predict(model, task.test.x) == task.test.y
    assert right[~task.test_forget].float().mean() > 0.9
    if intention == "unt":  # an untrained network may happen to answer the label
        images = task.test.x[task.test_forget] / 255
        wanted = access.intention.relabel(images, Given(access.original, 1, None, access.seed))
        with torch.no_grad():
            assert (model(images).softmax(-1) - wanted).abs().max() < 0.2
    else:
        assert right[task.test_forget].float().mean() < 0.1


def test_l_teachers_against_the_loop() -> None:
    torch.manual_seed(0)
    student, good, bad = torch.randn(3, 5, 4)
    forget = torch.tensor([True, False, True, False, False])
    total = 0.0
    for i in range(5):
        t = (bad if forget[i] else good)[i].softmax(-1)
        total += float((t * (t.log() - student[i].softmax(-1).log())).sum())
    assert float(l_teachers(student, good, bad, forget)) == pytest.approx(total / 5, rel=1e-5)


def test_l_distil_against_the_loop() -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 5, 4)
    y, t = torch.tensor([0, 1, 2, 3, 0]), 2.0
    total = 0.0
    for i in range(5):
        q = (teacher[i] / t).softmax(-1)
        ce = -float(logits[i].log_softmax(-1)[y[i]])
        total += 0.3 * ce - 0.7 * t**2 * float((q * (logits[i] / t).log_softmax(-1)).sum())
    found = l_distil(logits, y, teacher.softmax(-1), 0.3, t)
    assert float(found) == pytest.approx(total / 5, rel=1e-4)


def test_contrastive_labels_are_uniform_over_the_others() -> None:
    y = torch.arange(4).repeat(5000)
    wrong = contrastive_labels(y, 4, torch.Generator().manual_seed(0))
    assert not (wrong == y).any()
    counts = torch.stack([torch.bincount(wrong[y == c], minlength=4) for c in range(4)])
    assert (counts[~torch.eye(4, dtype=torch.bool)] > 1500).all()


def test_neutralizing_ends_at_chance() -> None:
    task = small_task(240)
    task.forget = task.train.y == 1
    access = access_to(task)
    long = replace(baseline_of("neutralized"), scrub_epochs=40, lr=0.05, batch_size=16, epochs=1)
    outcome = long.unlearn(access)
    steps = [row["step"] for row in outcome.history]
    first = steps[: steps.index(min(steps), 1)] if min(steps) in steps[1:] else steps
    assert max(first) < 40 * 4


def test_the_logit_mask_only_hides() -> None:
    task = small_task(240)
    task.forget = task.train.y == 1
    access = access_to(task)
    model = baseline_of("logit_mask").unlearn(access).model
    x = task.test.x.float() / 255
    with torch.no_grad():
        logits, masked = access.original(x), model(x)
    others = [0, 2, 3]
    torch.testing.assert_close(masked[:, others], logits[:, others], rtol=0, atol=0)
    p = masked.softmax(-1)
    assert (p[:, 1] == 0).all()
    assert torch.isfinite(p).all()
    assert (predict(model, task.test.x)[task.test_forget] != 1).all()


PARTS_OF_A_CLASS = [
    n for n in SCENARIOS if SCENARIOS[n].needs_data and not SCENARIOS[n].whole_class
]


@pytest.mark.parametrize("scenario", PARTS_OF_A_CLASS)
def test_the_logit_mask_needs_a_whole_class(scenario: str) -> None:
    with pytest.raises(unlearn.UserError, match=r"baseline: .*class_mnist"):
        check(resolve(["baseline=logit_mask", f"scenario={scenario}"]))


BAD = {
    "baseline=incompetent baseline.retained=0": "baseline.retained",
    "baseline=incompetent baseline.batchnorm=x": "train, frozen",
    "baseline=neutralized baseline.alpha=2": "baseline.alpha",
    "baseline=neutralized baseline.epochs=0": "baseline.epochs",
    "baseline=oracle intention.oracle_form=second": "ascent, complementary",
    "baseline=oracle intention=cor scenario=7mnist": "7noisymnist",
}


@pytest.mark.parametrize("overrides", BAD)
def test_bad_settings(overrides: str) -> None:
    with pytest.raises(unlearn.UserError, match=BAD[overrides]):
        check(resolve(overrides.split()))


def test_a_baseline_without_intention_does_not_mind_it() -> None:
    check(resolve(["baseline=incompetent", "intention=cor", "scenario=7mnist"]))


def test_full_access_is_only_made_for_baselines() -> None:
    """``FullAccess`` is built in one place, which hands it to a baseline."""
    root = Path(unlearn.__file__).parent
    makers = [
        path.name
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "FullAccess"
    ]
    assert makers == ["pipeline.py"]
