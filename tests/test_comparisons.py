"""RMIA, relearn time, the linear probe, answers by class: against literal forms on tiny tensors."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers import small_task
from unlearn import UserError
from unlearn.data import Images
from unlearn.evaluation import Evidence, Others, References, evaluate, relearn_time, rmia
from unlearn.evaluation.by_class import counted
from unlearn.evaluation.linear_probe import probed
from unlearn.evaluation.outputs import Outputs
from unlearn.evaluation.references import complementary_halves
from unlearn.scenarios import Task


class Quarters(nn.Module):
    """Knows the images of ``small_task`` by construction: the logits are the quarters' means."""

    def __init__(self, turned: int = 0) -> None:
        super().__init__()
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.head.weight).data.mul_(20)
        if turned:  # class 1 is called class 2
            self.head.weight.data[1] -= 30 * torch.eye(4)[1]
            self.head.weight.data[2] += 30 * torch.eye(4)[1]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


@pytest.fixture(scope="module")
def task() -> Task:
    return small_task()


def evidence(task: Task, model: nn.Module, others: Others | None = None) -> Evidence:
    nothing = Outputs(torch.zeros(0, 4), torch.zeros(0))
    return Evidence(model, task, nothing, nothing, 0, others or Others())


# --- RMIA


def softmaxes(*shape: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, generator=rng)).double().softmax(-1)


def written_references(task: Task, number: int = 4) -> References:
    n, m, classes = int(task.forget.sum()), len(task.test), len(task.classes)
    halves = complementary_halves(len(task.train), number, 0)
    return References(
        halves, softmaxes(number, n, classes, seed=1), softmaxes(number, m, classes, seed=2)
    )


def literal(p: float, p_out: list[float], population: list[float]) -> float:
    """Pr_z[(p(x | theta) / p(x)) / (p(z | theta) / p(z)) >= 1] in loops."""
    ratio = p / (0.5 * (1.3 * sum(p_out) / len(p_out) + 0.7))
    return sum(ratio / z >= 1 for z in population) / len(population)


def test_rmia_is_the_literal_one(task: Task) -> None:
    references = written_references(task)
    members, test = softmaxes(15, 4, seed=3), softmaxes(40, 4, seed=4)
    own, others = rmia.attack(task, members, test, references, 0)
    population = []
    for z in (~task.test_forget).nonzero()[:, 0].tolist():
        y = int(task.test.y[z])
        p_out = references.test[:, z, y].tolist()
        population.append(float(test[z, y]) / (0.5 * (1.3 * sum(p_out) / 4 + 0.7)))
    for i, row in enumerate(task.forget.nonzero()[:, 0].tolist()):
        p_out = [
            float(references.forget[k, i, 1]) for k in range(4) if not references.halves[k, row]
        ]
        assert len(p_out) == 2
        assert own[i] == pytest.approx(literal(float(members[i, 1]), p_out, population))
    drawn = rmia.drawn_of_pairs(4, 10, 0)
    assert (drawn[0] ^ drawn[1]).all()
    assert (drawn[2] ^ drawn[3]).all()
    for j, row in enumerate(task.test_forget.nonzero()[:, 0].tolist()):
        p_out = [float(references.test[k, row, 1]) for k in range(4) if drawn[k, j]]
        assert others[j] == pytest.approx(literal(float(test[row, 1]), p_out, population))


def test_rmias_auc_and_its_bootstrap() -> None:
    rng = torch.Generator().manual_seed(0)
    a = (torch.rand(30, generator=rng) * 8).round() / 8 + 0.2
    b = (torch.rand(20, generator=rng) * 8).round() / 8
    pairs = rmia.wins(a, b)
    slow = np.mean([(x > y) + 0.5 * (x == y) for x in a.tolist() for y in b.tolist()])
    mean, low, high = rmia.bootstrap(pairs, 0)
    assert mean == pytest.approx(slow)
    assert low < mean < high
    assert rmia.bootstrap(pairs, 0) == (mean, low, high)
    assert rmia.bootstrap(pairs - pairs, 0) == (0, 0, 0)
    # The spread is that of draws made one at a time.
    draw = np.random.default_rng(1)
    array = pairs.numpy()
    means = [
        array[draw.integers(30, size=30)][:, draw.integers(20, size=20)].mean() for _ in range(2000)
    ]
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)


def test_rmia_of_what_is_told_apart_and_of_what_is_not(task: Task) -> None:
    """A model that is sure of its members alone, and an oracle that answers all alike."""
    references = written_references(task)
    flat = References(
        references.halves,
        torch.full_like(references.forget, 0.25),
        torch.full_like(references.test, 0.25),
    )
    sure = torch.eye(4, dtype=torch.float64)[1].repeat(len(task.train), 1)
    answers = torch.eye(4, dtype=torch.float64)[task.test.y]
    answers[task.test_forget] = 0.25
    oracle = Quarters()
    nn.init.zeros_(oracle.head.weight)
    seen = replace(
        evidence(task, Quarters(), Others(oracle=lambda: oracle, references=lambda: flat)),
        train=Outputs(sure, torch.zeros(0)),
        test=Outputs(answers, torch.zeros(0)),
    )
    found = rmia.rmia(seen)
    assert [found[f"rmia_auc{x}"] for x in ("", "_low", "_high")] == [1, 1, 1]
    assert found["rmia_auc_less_oracle"] == pytest.approx(0.5)
    assert found["rmia_tpr_at_1_fpr"] == 1
    assert found["rmia_fpr_step"] == pytest.approx(1 / 10)
    assert found["rmia_references"] == 4
    with pytest.raises(UserError, match="rmia: needs reference models"):
        rmia.rmia(evidence(task, Quarters()))


@pytest.mark.parametrize(("rows", "number"), [(10, 2), (11, 8)])
def test_every_image_is_new_to_half_of_the_reference_models(rows: int, number: int) -> None:
    halves = complementary_halves(rows, number, 0)
    assert (halves.sum(0) == number // 2).all()
    assert set(halves.sum(1).tolist()) <= {rows // 2, rows - rows // 2}
    assert not torch.equal(halves, complementary_halves(rows, number, 1))


# --- relearn time


def test_relearn_time_counts_the_steps(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearn_time, "LR", 0.5)
    x, y = task.train.x[task.forget], task.train.y[task.forget]
    knows, turned = Quarters(), Quarters(turned=1)
    assert relearn_time.steps_until(knows, x, y, 0.95, 0) == 0
    before = copy.deepcopy(turned.state_dict())
    steps = relearn_time.steps_until(turned, x, y, 0.95, 0)
    assert 1 < steps < relearn_time.CAP
    torch.testing.assert_close(turned.state_dict(), before)
    # A literal form: all of D_e is one batch, so that every step is the same full gradient.
    weight = turned.head.weight.detach().clone()
    inputs = nn.AdaptiveAvgPool2d(2)(x / 255).flatten(1)
    for step in range(steps):
        right = ((inputs @ weight.T).argmax(-1) == y).double().mean()
        assert right < 0.95, step
        gap = (inputs @ weight.T).softmax(-1) - nn.functional.one_hot(y, 4)
        weight -= relearn_time.LR * gap.T @ inputs / len(x)
    assert ((inputs @ weight.T).argmax(-1) == y).double().mean() >= 0.95


def test_relearn_time_is_against_the_oracle(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearn_time, "LR", 0.5)
    knows, turned = Quarters(), Quarters(turned=1)
    seen = evidence(task, knows, Others(lambda: knows, lambda: turned))
    found = relearn_time.relearn_time(seen)
    assert found["relearn_steps"] == 0
    assert found["relearn_steps_oracle"] > 1
    assert found["relearn_time"] == pytest.approx(1 / found["relearn_steps_oracle"])
    alone = relearn_time.relearn_time(evidence(task, knows, Others(lambda: knows)))
    assert alone == {"relearn_steps": 0}
    with pytest.raises(UserError, match="relearn_time: needs the original model"):
        relearn_time.relearn_time(evidence(task, knows))


def test_relearning_ends_at_the_cap(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relearn_time, "CAP", 3)
    monkeypatch.setattr(relearn_time, "LR", 0.0)
    x, y = task.train.x[task.forget], task.train.y[task.forget]
    assert relearn_time.steps_until(Quarters(turned=1), x, y, 0.95, 0) == 3


# --- linear probe


def test_the_probe_is_least_squares_on_standardised_features(task: Task) -> None:
    rng = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, 5, generator=rng).double() for n in (120, 40))
    mean, std = train.mean(0), train.std(0, correction=0)
    f = (train - mean) / std
    targets = 2 * nn.functional.one_hot(task.train.y).double() - 1
    offset = targets.mean(0)
    w = torch.linalg.solve(f.T @ f + torch.eye(5).double(), f.T @ (targets - offset))
    predicted = (((test - mean) / std) @ w + offset).argmax(-1)
    right = predicted == task.test.y
    found = probed(task, train, test)
    assert found["D_r"] == pytest.approx(float(right[~task.test_forget].double().mean()))
    assert found["D_e"] == pytest.approx(float(right[task.test_forget].double().mean()))
    assert 0 < found["D_r"] < 1


def test_the_probe_finds_what_the_answers_hide(task: Task) -> None:
    """The last layer calls class 1 by another name; the features before it are unharmed."""
    empty = Quarters()
    empty.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(2))  # type: ignore[assignment]
    seen = evidence(task, Quarters(turned=1), Others(oracle=lambda: empty))
    probe = evaluate(seen.model, task, 0, ["linear_probe"], seen.others)
    assert probe.metrics["probe_D_r"] == 1
    assert probe.metrics["probe_D_e"] == 1
    assert probe.metrics["probe_D_r_less_oracle"] > 0.3
    assert "probe_D_e_less_oracle" in probe.metrics
    assert not [k for k in evaluate(seen.model, task, 0, ["linear_probe"]).metrics if "oracle" in k]


def test_the_probe_counts_the_label_to_forget(task: Task) -> None:
    """D_e is mislabelled in D: its label there counts, not the true one."""
    wrong = task.train.y.clone()
    wrong[task.forget] = 3
    other = replace(task, train=Images(task.train.x, wrong), target=3, counted=1)
    onehot = nn.functional.one_hot(wrong).double()
    found = probed(other, onehot, nn.functional.one_hot(task.test.y).double())
    assert found == {"D_r": 1.0, "D_e": 0.0}


# --- answers by class


def test_answers_by_class(task: Task) -> None:
    others = Others(original=Quarters)
    found = evaluate(Quarters(turned=1), task, 0, ["answers"], others).metrics
    before = {"a": 0, "b": 10, "c": 0, "d": 0}
    after = {"a": 0, "b": 0, "c": 10, "d": 0}
    assert found == {
        **{f"answers_before_{c}": n for c, n in before.items()},
        **{f"answers_after_{c}": n for c, n in after.items()},
    }
    assert set(evaluate(Quarters(), task, 0, ["answers"]).metrics) == {
        f"answers_after_{c}" for c in "abcd"
    }
    assert counted("x", torch.tensor([2, 0, 2]), ["a", "b", "c"]) == {"x_a": 1, "x_b": 0, "x_c": 2}
