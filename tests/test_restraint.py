"""Relearning that goes no further than it must: teacher, anchor, stop, interpolation."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from tests.helpers import shots_of, small_net, taught, tiny
from unlearn import forget
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit
from unlearn.filtration import Proxy
from unlearn.problem import Interface, Problem
from unlearn.relearning import Given, RelearningConfig
from unlearn.relearning.intentions.cor import Cor
from unlearn.relearning.intentions.neg import Neg
from unlearn.relearning.lesson import prepare
from unlearn.relearning.relearn import Relearner, l_anchor_each
from unlearn.relearning.restraint import Held, interpolated
from unlearn.relearning.views import adversarial, departure, mixed


def a_problem(model: nn.Module) -> Problem:
    shots, labels = shots_of(1, 28, 28)
    return Problem.of(model, shots, labels, None, Augment(2, 15.0), 0, Interface())


def a_proxy(problem: Problem, number: int = 48, like: int = 0) -> Proxy:
    """Noise with f_o's answers; the first ``like`` of it are target-like."""
    torch.manual_seed(3)
    images = torch.randint(0, 256, (number, *problem.shape), dtype=torch.uint8)
    with torch.no_grad():
        p = problem.original(images / 255).softmax(-1)
    near = torch.arange(number) < like
    return Proxy(
        images,
        p,
        p.argmax(-1),
        torch.ones(number),
        torch.zeros(2),
        near,
        torch.zeros_like(near),
        torch.tensor(0.5),
        torch.ones(1),
        torch.tensor(False),
    )


def relearnt(problem: Problem, proxy: Proxy, **settings: object) -> nn.Module:
    """A model after two epochs with frozen BatchNorm."""
    cfg = RelearningConfig(epochs=2, batch_size=16, lr=1e-3, batchnorm="frozen", weight_decay=0.0)
    cfg = replace(cfg, **settings)  # type: ignore[arg-type]
    given = Given(problem.original, problem.target, None, 0)
    lesson = prepare(cfg, proxy, problem.shots, Neg(), given)
    model = copy.deepcopy(problem.original).requires_grad_(True)
    module = Relearner(cfg, model, lesson, problem, lesson)
    Fit().run(module, module.batches, torch.device("cpu"))
    return model


def moved(problem: Problem, model: nn.Module) -> float:
    """The largest change of a weight."""
    pairs = zip(problem.original.parameters(), model.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_with_a_teacher_on_the_same_view_the_original_is_a_fixed_point(temperature: float) -> None:
    problem = a_problem(taught(small_net(), 1, 28, 28))
    proxy = a_proxy(problem)
    same = relearnt(problem, proxy, teacher="view", temperature=temperature)
    stored = relearnt(problem, proxy, teacher="stored", temperature=temperature)
    assert moved(problem, same) < 1e-6
    assert moved(problem, stored) > 1e-4


@pytest.mark.parametrize("switch", ["mixup", "adversarial"])
def test_changed_images_are_answered_by_the_original(switch: str) -> None:
    problem = a_problem(taught(small_net(), 1, 28, 28))
    proxy = a_proxy(problem)
    same = relearnt(problem, proxy, teacher="view", **{switch: 1.0})
    assert moved(problem, same) < 1e-6
    proxy = a_proxy(problem, like=24)
    off, on = (relearnt(problem, proxy, teacher="view", **{switch: v}) for v in (0.0, 1.0))
    pairs = zip(off.parameters(), on.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_only_images_of_d_r_are_mixed_and_among_themselves() -> None:
    values = torch.arange(8.0)
    x = values[:, None, None, None].expand(8, 1, 2, 2)
    retain = values < 5
    rng = torch.Generator().manual_seed(0)
    met = set()
    for _ in range(200):
        out = mixed(x, retain, 0.5, rng)[:, 0, 0, 0]
        assert torch.equal(out[~retain], values[~retain])
        assert out[retain].min() >= 0
        assert out[retain].max() <= 4
        # At least half of each image is its own.
        assert ((out - values).abs()[retain] <= 2).all()
        met |= {bool(v) for v in out[retain] == values[retain]}
    assert met == {True, False}
    assert torch.equal(mixed(x, retain, 0.0, rng), x)


def test_images_go_to_where_the_model_departs_from_the_original() -> None:
    original, model = taught(small_net(), 1, 28, 28), taught(small_net(seed=1), 1, 28, 28)
    model.train().zero_grad()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, retain = torch.rand(12, 1, 28, 28) / 2 + 0.25, torch.arange(12) < 8

    def gaps(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            ours, theirs = (f.eval()(images).log_softmax(-1) for f in (model, original))
        return (theirs.exp() * (theirs - ours)).sum(1)

    def gap(moved: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return departure(logits, original.eval()(moved), 1.0)

    out = adversarial(x, 0.01 * retain, model, gap)
    assert model.training
    assert not out.requires_grad
    assert torch.equal(out[~retain], x[~retain])
    length = (out - x)[retain].flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(length, torch.full((8,), 0.01))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    # The way is the steepest: no random one of that length does better.
    best = gaps(out)[retain]
    for _ in range(20):
        way = torch.randn_like(x)
        way *= 0.01 / way.flatten(1).square().mean(1).sqrt()[:, None, None, None]
        assert (best > gaps(x + way)[retain]).all()
    far = adversarial(x, 9.0 * retain, model, gap)
    assert far.min() >= 0
    assert far.max() <= 1


def test_the_anchor_is_the_distance_in_units_of_the_features() -> None:
    anchor = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    assert l_anchor_each(anchor, anchor).tolist() == [0.0, 0.0]
    torch.testing.assert_close(l_anchor_each(0 * anchor, anchor), torch.ones(2))
    torch.testing.assert_close(l_anchor_each(0 * anchor, 10 * anchor), torch.ones(2))


def test_an_anchor_holds_the_embedding() -> None:
    problem = a_problem(taught(small_net(), 1, 28, 28))
    proxy = a_proxy(problem, like=24)
    models = [relearnt(problem, proxy, anchor=w) for w in (0.0, 10.0)]
    x = proxy.images[24:] / 255
    with torch.no_grad():
        embeddings = [nn.Sequential(*list(m.children())[:-1])(x) for m in models]
        theirs = nn.Sequential(*list(problem.original.children())[:-1])(x)
    free, held = ((e - theirs).square().sum() for e in embeddings)
    assert held < free


def test_the_shots_alone_can_be_what_is_forgotten() -> None:
    problem = a_problem(small_net())
    proxy, given = a_proxy(problem, like=24), Given(problem.original, problem.target, None, 0)
    cfg = RelearningConfig(shot_copies=20)
    number = len(problem.shots)
    lesson = prepare(cfg, proxy, problem.shots, Neg(), given)
    assert int(lesson.forget.sum()) == 24 + number * (24 // number)
    proxy.conditions = torch.zeros_like(proxy.conditions)
    alone = replace(cfg, forget="shots", shot_copies=2)
    lesson = prepare(alone, proxy, problem.shots, Neg(), given)
    assert int(lesson.forget.sum()) == 2 * number
    assert int((~lesson.forget).sum()) == 24  # the target-like samples are in neither part


def test_a_weight_for_retained_samples_of_the_label() -> None:
    problem = a_problem(taught(small_net(), 1, 28, 28))
    proxy = a_proxy(problem)
    proxy.probabilities = torch.eye(4)[torch.arange(48) % 4]
    given = Given(problem.original, problem.target, None, 0)

    def loss(weight: float, only: int) -> float:
        cfg = RelearningConfig(own_label_weight=weight)
        lesson = prepare(cfg, proxy, problem.shots, Neg(), given)
        module = Relearner(cfg, problem.original, lesson, problem, lesson)
        rows = (torch.arange(48) % 4 == only).nonzero()[:, 0]
        return float(module.losses((rows, False))["loss"])

    target = problem.target
    assert loss(5.0, target) == pytest.approx(5 * loss(1.0, target))
    assert loss(5.0, target + 1) == pytest.approx(loss(1.0, target + 1))


@pytest.mark.parametrize(
    ("labels", "led"),
    [
        ([3, 3, 3, 3], True),
        ([3, 3, 3, 1], True),  # three quarters
        ([3, 3, 1, 1], False),
        ([0, 0, 0, 0], False),  # the label itself, as ascent has it
        ([0, 3, 3, 3], True),
        ([0, 0, 3, 3], False),
    ],
)
def test_another_weight_where_d_e_is_led_to_one_answer(labels: list[int], led: bool) -> None:
    problem = replace(a_problem(taught(small_net(), 1, 28, 28)), targets=(0,))
    proxy = a_proxy(problem)
    proxy.probabilities = torch.eye(4)[torch.zeros(48, dtype=torch.long)]
    shots = problem.shots[:1].expand(4, -1, -1, -1)
    named = torch.eye(4)[torch.tensor(labels)]
    given = Given(problem.original, 0, None, 0)

    def loss(led_weight: float | None) -> tuple[float, bool]:
        cfg = RelearningConfig(forget="shots", shot_copies=1, own_label_weight=5.0,
                               led_label_weight=led_weight)  # fmt: skip
        lesson = prepare(cfg, proxy, shots, Neg(), given)
        lesson.labels[lesson.forget] = named
        module = Relearner(cfg, problem.original, lesson, problem, lesson)
        rows = (~lesson.forget).nonzero()[:, 0]
        return float(module.losses((rows, False))["loss"]), lesson.led

    before, said = loss(None)
    assert said == led
    assert loss(2.0)[0] == pytest.approx(before * (2 / 5 if led else 1))


def linear(bias: float) -> nn.Module:
    """Two classes; class 0 wins where the mean of the image is below ``bias``."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    head = model[1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[-1.0] * 4, [1.0] * 4]))
        head.bias.copy_(torch.tensor([4 * bias, -4 * bias]))
    return model


def test_interpolation_takes_the_smallest_step_that_keeps_the_intention() -> None:
    original, model = linear(1.0), linear(0.0)
    images = torch.full((1, 1, 2, 2), 0.52)
    held = Held(Neg(), Given(original, 0, None, 0), images)
    assert held.share(original) == 0
    assert held.share(model) == 1
    assert interpolated(original, model, held, 1.0) == pytest.approx(0.5)
    torch.testing.assert_close(model[1].bias, torch.tensor([2.0, -2.0]))
    assert held.share(model) == 1


def test_interpolation_goes_all_the_way_where_it_must() -> None:
    original, model = linear(1.0), linear(0.0)
    held = Held(Neg(), Given(original, 0, None, 0), torch.full((1, 1, 2, 2), 0.01))
    assert interpolated(original, model, held, 1.0) == 1.0


def test_cor_holds_where_the_right_label_is_answered() -> None:
    logits = torch.eye(3)
    given = Given(nn.Identity(), 0, 2, 0)
    assert Cor().held(logits, given).tolist() == [False, False, True]
    assert Neg().held(logits, given).tolist() == [False, True, True]


def test_relearning_stops_once_the_intention_holds() -> None:
    model = taught(small_net(), 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)
    base = tiny()
    long = replace(base.relearning, epochs=40, lr=0.01, clip=1.0, shot_copies=10)
    never = forget(model, shots, labels, settings=replace(base, relearning=long))
    stopped = forget(
        model, shots, labels, settings=replace(base, relearning=replace(long, stop=0.5))
    )
    last = [r.history["relearning"][-1]["step"] for r in (never, stopped)]
    assert last[1] < last[0]
    with torch.no_grad():
        assert (stopped.model(shots).argmax(-1) != labels).float().mean() > 0.3


def test_the_rate_falls_to_nothing_by_a_cosine() -> None:
    problem = a_problem(taught(small_net(), 1, 28, 28))
    proxy = a_proxy(problem, like=24)
    given = Given(problem.original, problem.target, None, 0)
    rates: dict[str, list[float]] = {}
    for schedule in ("constant", "cosine"):
        cfg = RelearningConfig(3, 16, 0.01, schedule=schedule)
        lesson = prepare(cfg, proxy, problem.shots, Neg(), given)
        module = Relearner(cfg, problem.student(), lesson, problem, lesson)
        seen = rates[schedule] = []

        class Look(pl.Callback):
            def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
                seen.append(trainer.optimizers[0].param_groups[0]["lr"])  # noqa: B023

        Fit().run(module, module.batches, problem.device, callbacks=[Look()])
    steps = len(rates["constant"])
    assert rates["constant"] == [0.01] * steps
    falls = [0.005 * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
    assert rates["cosine"] == pytest.approx(falls)


def test_images_of_d_e_go_to_where_the_intention_holds_least() -> None:
    problem = a_problem(taught(small_net(), 1, 28, 28))
    proxy = a_proxy(problem, like=24)
    cfg = RelearningConfig(
        2, 16, 1e-3, teacher="view", adversarial=0.02, adversarial_forget=0.05, shot_copies=0
    )
    given = Given(problem.original, problem.target, 1 - problem.target, 0)
    lesson = prepare(cfg, proxy, problem.shots, Cor(), given)
    module = Relearner(cfg, problem.student(), lesson, problem, lesson)
    rows = torch.arange(len(lesson.forget))
    portion = lesson.take(rows)
    x = portion.images * 0.5 + 0.25  # far from both ends
    moved = module._moved(x, portion, scrubbing=False)
    length = (moved - x).flatten(1).square().mean(1).sqrt()
    # A pixel that comes to an end stays there.
    torch.testing.assert_close(length[portion.forget], torch.full((24,), 0.05), atol=1e-3, rtol=0)
    assert length[portion.retain].max() == 0  # the model is f_o still: no way leads from it

    def losses(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = module.model.eval()(images)
        return nn.functional.cross_entropy(logits, portion.labels, reduction="none")[portion.forget]

    assert (losses(moved) > losses(x)).all()

    def stays(scrubbing: bool) -> bool:
        return torch.equal(module._moved(x, portion, scrubbing)[portion.forget], x[portion.forget])

    assert stays(scrubbing=True)
    assert not stays(scrubbing=False)
    lesson.imposed = False
    assert stays(scrubbing=False)
