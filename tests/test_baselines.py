"""The baselines, each against a slow literal version or its defining property."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unlearn
from unlearn.baselines import BASELINES, FullAccess
from unlearn.baselines.incompetent import l_teachers
from unlearn.baselines.neutralized import contrastive_labels, l_distil
from unlearn.baselines.oracle import OracleTraining
from unlearn.config.checks import check
from unlearn.config.compose import resolve
from unlearn.data import Images
from unlearn.data.mnist5k import MNIST5k
from unlearn.engine.augment import Augment
from unlearn.engine.predict import predict
from unlearn.engine.store import state_of
from unlearn.models import ModelConfig, build
from unlearn.relearning.intentions.neg import Neg
from unlearn.scenarios import SCENARIOS, Task
from unlearn.training import Training, TrainingConfig

PLAIN = Augment(padding=0, rotation=0, flip=False)
QUICK = TrainingConfig(2, 16, 0.05, 0.9, 0.0, "constant", 0)


def small_task(number: int = 120, seed: int = 0) -> Task:
    """Four classes of 8x8 images told apart by a bright quarter; D_e is part of class 1."""
    rng = torch.Generator().manual_seed(seed)

    def draw(n: int) -> Images:
        y = torch.arange(n) % 4
        x = torch.randint(0, 90, (n, 1, 8, 8), generator=rng)
        for i, c in enumerate(y.tolist()):
            x[i, :, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 150
        return Images(x.to(torch.uint8), y)

    train, test = draw(number), draw(40)
    forget = (train.y == 1) & (torch.arange(number) % 8 < 4)
    return Task(train, forget, test, test.y == 1, 1, None, 1, list("abcd"), MNIST5k())


def fresh() -> nn.Module:
    torch.manual_seed(7)
    return build(ModelConfig("small_cnn", "batch", 4), 1, 4, [0.3], [0.3])


def access_to(task: Task, name: str, intention: str = "neg", seed: int = 0) -> FullAccess:
    torch.manual_seed(1)
    original = build(ModelConfig("small_cnn", "batch", 4), 1, 4, [0.3], [0.3])
    module = Training(QUICK, original.train(), task.train, PLAIN)
    from unlearn.engine.fitting import fit

    fit(module, module.batches, torch.device("cpu"))
    given = task.forget.clone()
    return FullAccess(
        original.eval().requires_grad_(False),
        task,
        given,
        resolve([f"intention={intention}", "scale=demo"]).intention,
        QUICK,
        PLAIN,
        fresh,
        seed,
    )


def baseline(name: str, *overrides: str):  # type: ignore[no-untyped-def]
    return resolve([f"baseline={name}", "scenario=class_mnist", *overrides]).baseline


TRAINED = ["oracle", "incompetent", "neutralized", "fisher", "logit_mask"]


@pytest.mark.parametrize("name", TRAINED)
def test_the_original_is_left_alone_and_the_seed_decides(name: str) -> None:
    access = access_to(small_task(), name)
    before = state_of(access.original)
    states = [state_of(baseline(name).unlearn(access).model) for _ in range(2)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    torch.testing.assert_close(state_of(access.original), before, rtol=0, atol=0)
    other = state_of(baseline(name).unlearn(replace(access, seed=5)).model)
    same = all(torch.equal(other[k], states[0][k]) for k in other)
    assert same == ("seed" not in BASELINES[name].uses)


def test_the_oracle_is_a_fresh_network_not_the_original() -> None:
    access = access_to(small_task(), "oracle", "std")
    access.training = replace(QUICK, epochs=1, lr=1e-12, momentum=0.0)
    outcome = baseline("oracle").unlearn(access)
    torch.testing.assert_close(
        dict(outcome.model.named_parameters()), dict(fresh().named_parameters()), atol=1e-6, rtol=0
    )


def test_the_oracle_for_std_never_sees_the_given_images() -> None:
    """Other pixels in D_e, same result; other pixels in D_r, another one."""
    task = small_task()
    access = access_to(task, "oracle", "std")
    first = state_of(baseline("oracle").unlearn(access).model)

    def with_noise(rows: Tensor) -> FullAccess:
        x = task.train.x.clone()
        x[rows] = 255 - x[rows]
        return replace(access, task=replace(task, train=Images(x, task.train.y)))

    changed = state_of(baseline("oracle").unlearn(with_noise(task.forget)).model)
    torch.testing.assert_close(first, changed, rtol=0, atol=0)
    changed = state_of(baseline("oracle").unlearn(with_noise(~task.forget)).model)
    assert any(not torch.equal(first[k], changed[k]) for k in first)


def test_what_is_not_given_stays_in_the_oracles_d_r() -> None:
    task = small_task()
    access = access_to(task, "oracle", "std")
    access.given = task.forget & (torch.arange(len(task.forget)) % 16 < 4)
    assert 0 < int(access.given.sum()) < int(task.forget.sum())
    x = task.train.x.clone()
    left = task.forget & ~access.given
    x[left] = 255 - x[left]
    first = state_of(baseline("oracle").unlearn(access).model)
    other = replace(access, task=replace(task, train=Images(x, task.train.y)))
    second = state_of(baseline("oracle").unlearn(other).model)
    assert any(not torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("form", ["complementary", "ascent"])
def test_the_oracles_loss_is_one_mean_over_the_batch(form: str) -> None:
    torch.manual_seed(0)
    intention = Neg("neg", 0, form, 10.0)
    data = Images(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 1, 0]))
    given = torch.tensor([False, True, False, False, True, False])
    labels = F.one_hot(torch.ones(6, dtype=torch.long), 4).float()
    module = OracleTraining(QUICK, fresh(), data, PLAIN, intention, labels, given)
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
    access = access_to(task, "oracle", intention)
    access.training = replace(QUICK, epochs=6)
    model = baseline("oracle").unlearn(access).model
    right = predict(model, task.test.x) == task.test.y
    assert right[~task.test_forget].float().mean() > 0.9
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
    access = access_to(task, "neutralized")
    long = replace(baseline("neutralized"), scrub_epochs=40, lr=0.05, batch_size=16, epochs=1)
    outcome = long.unlearn(access)
    steps = [row["step"] for row in outcome.history]
    first = steps[: steps.index(min(steps), 1)] if min(steps) in steps[1:] else steps
    assert max(first) < 40 * 4


def test_the_logit_mask_only_hides() -> None:
    task = small_task(240)
    task.forget = task.train.y == 1
    access = access_to(task, "logit_mask")
    model = baseline("logit_mask").unlearn(access).model
    x = task.test.x.float() / 255
    with torch.no_grad():
        logits, masked = access.original(x), model(x)
    others = [0, 2, 3]
    torch.testing.assert_close(masked[:, others], logits[:, others], rtol=0, atol=0)
    p = masked.softmax(-1)
    assert (p[:, 1] == 0).all()
    assert torch.isfinite(p).all()
    assert (predict(model, task.test.x)[task.test_forget] != 1).all()


@pytest.mark.parametrize("scenario", [n for n in SCENARIOS if not SCENARIOS[n].whole_class])
def test_the_logit_mask_needs_a_whole_class(scenario: str) -> None:
    with pytest.raises(unlearn.UserError, match=r"baseline: .*class_mnist"):
        check(resolve(["baseline=logit_mask", f"scenario={scenario}"]))


BAD = {
    "baseline=incompetent baseline.retained=0": "baseline.retained",
    "baseline=incompetent baseline.batchnorm=x": "train, frozen",
    "baseline=neutralized baseline.alpha=2": "baseline.alpha",
    "baseline=neutralized baseline.epochs=0": "baseline.epochs",
    "baseline=oracle baseline.negative=second": "ascent, complementary",
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
    assert makers == ["methods.py"]
