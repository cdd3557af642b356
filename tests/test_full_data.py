"""The methods that see all the data: each against a slow literal version."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.golden import written_classifier
from tests.helpers import PLAIN, QUICK, ByHand, baseline_of, clear_cut, small_classifier, small_task
from unlearn import UserError
from unlearn.baselines import BASELINES, FullAccess, salun
from unlearn.baselines.diagonal import fisher_diagonal, some
from unlearn.baselines.finetune import Finetune
from unlearn.baselines.neggrad_plus import NegGradPlus
from unlearn.baselines.salun import SalUn
from unlearn.baselines.scrub import Scrub
from unlearn.baselines.ssd import SSD
from unlearn.baselines.steps import Finetuned, Turns
from unlearn.config.checks import check
from unlearn.config.compose import resolve
from unlearn.relearning.intentions.std import Std

NAMES = ["finetune", "neggrad_plus", "scrub", "salun", "ssd"]
# One batch is all there is: the order of its rows is of no account.
WHOLE: dict[str, Any] = {"epochs": 2, "batch_size": 256, "lr": 0.02}


@pytest.fixture
def access(doubles: None) -> FullAccess:
    """A written network in float64; half of D_e is given."""
    task = small_task(40)
    given = task.forget & (torch.arange(40) % 16 < 8)
    assert 0 < given.sum() < task.forget.sum()
    original = written_classifier().requires_grad_(False)
    return FullAccess(original, task, given, Std(), QUICK, PLAIN, small_classifier, 3)


def images(access: FullAccess, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of D, in [0, 1], with their labels."""
    return access.task.train.x[rows].double() / 255, access.task.train.y[rows]


def started(access: FullAccess, cfg: Finetuned) -> tuple[nn.Module, ByHand]:
    model = copy.deepcopy(access.original).requires_grad_().train(cfg.batchnorm == "train")
    return model, ByHand(model, cfg)


def agree(access: FullAccess, cfg: Any, expected: nn.Module) -> None:
    """Weights and running statistics are those of the literal version; f_o is as it was."""
    before = copy.deepcopy(access.original.state_dict())
    found = cfg.unlearn(access).model.state_dict()
    torch.testing.assert_close(access.original.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(found, expected.state_dict(), rtol=1e-9, atol=1e-11)
    assert any(not torch.equal(found[k], before[k]) for k in found)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return torch.stack([-row.softmax(-1)[c].log() for row, c in zip(logits, y, strict=True)]).mean()


def kl_to(teacher: Tensor, logits: Tensor, t: float) -> Tensor:
    parts = []
    for a, b in zip(teacher, logits, strict=True):
        p, q = (a / t).softmax(-1), (b / t).softmax(-1)
        parts.append((p * (p.log() - q.log())).sum())
    return t**2 * torch.stack(parts).mean()


def settings(name: str, **more: Any) -> Any:
    return replace(baseline_of(name), **{**WHOLE, **more})  # type: ignore[type-var]


def test_finetune(access: FullAccess) -> None:
    cfg: Finetune = settings("finetune")
    model, by_hand = started(access, cfg)
    x, y = images(access, ~access.given)
    for _ in range(2):
        by_hand.step(cross_entropy(model(x), y))
    agree(access, cfg, model)


def test_neggrad_plus(access: FullAccess) -> None:
    cfg: NegGradPlus = settings("neggrad_plus", alpha=0.7)
    model, by_hand = started(access, cfg)
    retained, erased = images(access, ~access.given), images(access, access.given)
    for _ in range(2):
        down, up = (cross_entropy(model(x), y) for x, y in (retained, erased))
        by_hand.step(0.7 * down - 0.3 * up)
    agree(access, cfg, model)


@pytest.mark.parametrize("max_epochs", [0, 1, 2])
def test_scrub(access: FullAccess, max_epochs: int) -> None:
    cfg: Scrub = settings("scrub", max_epochs=max_epochs, alpha=0.3)
    model, by_hand = started(access, cfg)
    (x, y), (erased, _) = images(access, ~access.given), images(access, access.given)
    for epoch in range(2):
        if epoch < max_epochs:
            by_hand.step(-kl_to(access.original(erased), model(erased), 4.0))
        logits = model(x)
        near = kl_to(access.original(x), logits, 4.0)
        by_hand.step(0.99 * cross_entropy(logits, y) + 0.3 * near)
    agree(access, cfg, model)


@pytest.mark.parametrize("batchnorm", ["train", "frozen"])
def test_salun(access: FullAccess, batchnorm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(salun, "contrastive_labels", lambda y, classes, rng: (y + 1) % classes)
    (x, y), (erased, wrong) = images(access, ~access.given), images(access, access.given)
    original = copy.deepcopy(access.original).eval().requires_grad_()
    cross_entropy(original(erased), wrong).backward()
    sizes = [p.grad.abs() for p in original.parameters() if p.grad is not None]
    ranked = torch.cat([s.flatten() for s in sizes]).sort(descending=True).values
    moving = clear_cut(ranked)
    kept = [s < ranked[moving - 1] for s in sizes]
    share = moving / len(ranked)
    cfg: SalUn = settings("salun", batchnorm=batchnorm, weight_decay=0.1, moving=share)
    model, by_hand = started(access, cfg)

    def step(loss: Tensor) -> None:
        by_hand.step(loss)
        for p, start, mask in zip(model.parameters(), original.parameters(), kept, strict=True):
            p.data[mask] = start.data[mask]

    for _ in range(2):
        step(cross_entropy(model(erased), (wrong + 1) % 4))
        step(cross_entropy(model(x), y))
    agree(access, cfg, model)
    assert sum(int(mask.sum()) for mask in kept) == len(ranked) - moving


def test_ssd(access: FullAccess) -> None:
    cfg = SSD("ssd", alpha=1.2, dampening=0.9, batch_size=7)
    model = copy.deepcopy(access.original)
    d = access.task.train.x
    f_e, f_d = (fisher_diagonal(access.original, x, 5) for x in (d[access.given], d))
    dampened = 0
    for name, p in model.named_parameters():
        flat = p.data.flatten()
        for i, (a, b) in enumerate(zip(f_e[name].flatten(), f_d[name].flatten(), strict=True)):
            if a > 1.2 * b:
                flat[i] *= min(0.9 * float(b) / float(a), 1)
                dampened += 1
        p.data = flat.view_as(p)
    assert 0 < dampened < sum(p.numel() for p in model.parameters())
    agree(access, cfg, model)
    # D_e's own diagonal is always taken on all that is given; D's may be on some.
    few = fisher_diagonal(access.original, some(d, 9, access.seed), 5)
    torch.testing.assert_close(
        replace(cfg, images=9).unlearn(access).model.state_dict(),
        cfg.dampened(access.original, f_e, few).state_dict(),
        rtol=1e-9,
        atol=1e-11,
    )


def test_the_fisher_is_that_of_single_images(access: FullAccess) -> None:
    """Two images in one batch give the mean of both, not the square of their mean gradient."""
    x = access.task.train.x[:2]
    both = fisher_diagonal(access.original, x, 2)
    each = [fisher_diagonal(access.original, x[i : i + 1], 1) for i in range(2)]
    for name, value in both.items():
        torch.testing.assert_close(value, (each[0][name] + each[1][name]) / 2)


def test_turns() -> None:
    turns = Turns(3, 5, 2, 3, 2, torch.Generator().manual_seed(0))
    seen = list(turns)
    assert [erased for erased, _ in seen] == [True, False, False] * 2 + [False] * 2
    assert [len(rows) for _, rows in seen] == [3, 2, 3, 3, 2, 3, 2, 3]
    assert turns.ends == [3, 6, 8]
    assert len(turns) == 8


@pytest.mark.parametrize("name", NAMES)
def test_only_the_shots_are_taken_out_of_d(name: str, access: FullAccess) -> None:
    """What is not given of D_e is retained: other labels there, another result."""
    assert BASELINES[name].uses == {"shot", "seed"}
    if name == "ssd":
        return  # which needs no labels
    cfg = settings(name)
    first = cfg.unlearn(access).model.state_dict()
    y = access.task.train.y.clone()
    left = access.task.forget & ~access.given
    y[left] = 3
    task = replace(access.task, train=replace(access.task.train, y=y))
    other = cfg.unlearn(replace(access, task=task)).model.state_dict()
    assert any(not torch.equal(first[k], other[k]) for k in first)


BAD = {
    "baseline=finetune baseline.epochs=0": "baseline.epochs",
    "baseline=finetune baseline.batch_size=1": "baseline.batch_size",
    "baseline=finetune baseline.momentum=1": "baseline.momentum",
    "baseline=finetune baseline.weight_decay=-1": "baseline.weight_decay",
    "baseline=finetune baseline.batchnorm=x": "train, frozen",
    "baseline=neggrad_plus baseline.alpha=0": "baseline.alpha",
    "baseline=scrub baseline.max_epochs=4": "baseline.max_epochs",
    "baseline=scrub baseline.temperature=0": "baseline.temperature",
    "baseline=scrub baseline.gamma=-1": "baseline.gamma",
    "baseline=salun baseline.moving=2": "baseline.moving",
    "baseline=ssd baseline.alpha=0": "baseline.alpha",
}


@pytest.mark.parametrize("overrides", BAD)
def test_bad_settings(overrides: str) -> None:
    with pytest.raises(UserError, match=BAD[overrides]):
        check(resolve(overrides.split()))
