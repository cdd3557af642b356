"""Intentions and the relearner."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tests.helpers import problem_of, relearned, small_net
from unlearn import UserError
from unlearn.engine.augment import Augment
from unlearn.filtration import Proxy
from unlearn.relearning import RelearningConfig, warn_of_one
from unlearn.relearning.intentions import INTENTIONS, Given, Intention, unt
from unlearn.relearning.intentions.neg import Neg
from unlearn.relearning.intentions.unt import untrained
from unlearn.relearning.lesson import prepare
from unlearn.relearning.relearn import Batches

CFG = RelearningConfig(
    epochs=30,
    batch_size=66,
    lr=0.02,
    momentum=0.9,
    weight_decay=0.0,
    clip=1.0,
    batchnorm="frozen",
    temperature=1.0,
    shot_copies=2,
    forget_weight=1.0,
    fresh=False,
    candidates=1,
)
TARGET = 1


@pytest.fixture
def task() -> tuple[torch.nn.Module, Proxy, torch.Tensor]:
    """A model, a proxy whose bright images are target-like, and bright shots."""
    torch.manual_seed(0)
    model = small_net()
    n = 120
    like = torch.arange(n) < 40
    images = torch.randint(0, 80, (n, 1, 28, 28), dtype=torch.uint8)
    images[like] += 150
    # The model answers TARGET on bright images, 0 on dark ones.
    fit = torch.optim.Adam(model.parameters(), 1e-2)
    y = torch.where(like, TARGET, 0)
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(images.float() / 255), y)
        fit.zero_grad()
        loss.backward()
        fit.step()
    model.requires_grad_(False)
    p = model(images.float() / 255).softmax(-1)
    assert (p.argmax(-1) == y).all()
    nothing = torch.zeros(n)
    proxy = Proxy(
        images,
        p,
        y,
        nothing,
        nothing[:2],
        like,
        torch.zeros(n, dtype=torch.bool),
        torch.tensor(1.0),
        torch.ones(1),
        torch.tensor(False),
    )
    shots = (torch.randint(0, 80, (6, 1, 28, 28)) + 150).float() / 255
    return model, proxy, shots


def intention(name: str, **values: object) -> Intention:
    return INTENTIONS[name](name=name, **values)  # type: ignore[arg-type]


def answers(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).softmax(-1)


@pytest.mark.parametrize("form", ["ascent", "complementary", "second", "neighbours"])
@pytest.mark.parametrize("batchnorm", ["frozen", "train"])
def test_neg_leaves_the_label_and_keeps_the_rest(task, form: str, batchnorm: str) -> None:
    model, proxy, shots = task
    before = copy.deepcopy(model.state_dict())
    neg = intention("neg", form=form, cutoff=10.0)
    problem = problem_of(model, shots, TARGET)
    unlearned, history = relearned(replace(CFG, batchnorm=batchnorm), neg, problem, proxy)
    assert answers(model, shots)[:, TARGET].min() > 0.9
    assert answers(unlearned, shots)[:, TARGET].max() < 0.1
    dark = proxy.images[proxy.retained].float() / 255
    assert answers(unlearned, dark)[:, 0].min() > 0.5
    torch.testing.assert_close(model.state_dict(), before)
    assert {"loss", "retain", "forget", "step"} >= set(history[-1])
    same = torch.equal(unlearned[1].running_mean, model[1].running_mean)
    assert same == (batchnorm == "frozen")


def test_cor_teaches_the_right_label(task) -> None:
    model, proxy, shots = task
    problem = problem_of(model, shots, TARGET, 3)
    unlearned, _ = relearned(CFG, intention("cor"), problem, proxy)
    assert answers(unlearned, shots)[:, 3].min() > 0.9
    with pytest.raises(UserError, match="correct_labels"):
        relearned(CFG, intention("cor"), problem_of(model, shots, TARGET), proxy)


def test_unt_answers_as_an_untrained_network(task) -> None:
    model, proxy, shots = task
    privacy = intention("unt", scrub_epochs=2)
    unlearned, _ = relearned(CFG, privacy, problem_of(model, shots, TARGET), proxy)
    wanted = answers(untrained(model, 0), shots)
    entropy = torch.special.entr(answers(unlearned, shots)).sum(-1).mean()
    assert (answers(unlearned, shots) - wanted).abs().mean() < 0.1
    assert entropy > 5 * torch.special.entr(answers(model, shots)).sum(-1).mean()


def test_untrained_is_fresh_and_fixed(task) -> None:
    model, _proxy, shots = task
    one, two, other = untrained(model, 0), untrained(model, 0), untrained(model, 1)
    torch.testing.assert_close(one.state_dict(), two.state_dict())
    for name, value in model.named_parameters():
        assert not torch.equal(dict(one.named_parameters())[name], value) or value.std() == 0
    assert not torch.equal(one[0].weight, other[0].weight)
    given = Given(model, TARGET, None, 5)
    labels = [intention("unt").relabel(shots, given) for _ in range(2)]
    assert torch.equal(labels[0], labels[1])
    torch.testing.assert_close(labels[0].sum(-1), torch.ones(6))


@pytest.mark.parametrize(("number", "says"), [(3, False), (4, True)])
def test_unt_says_where_the_untrained_network_gives_most_the_label(
    number: int,
    says: bool,
    task,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _proxy, shots = task
    labels = torch.tensor([TARGET] * number + [TARGET + 1] * (6 - number))
    drawn = torch.nn.functional.one_hot(labels, 4).float()
    monkeypatch.setattr(unt, "untrained", lambda model, seed: lambda images: drawn[: len(images)])
    given = Given(model, TARGET, None, 5)
    for _ in range(2):
        intention("unt").relabel(shots, given)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == says
    assert all("seed 5," in line and "67 %" in line for line in said)


def test_std_scrubs_then_leaves_the_forgotten_out(task) -> None:
    model, proxy, shots = task
    std = intention("std", scrub_epochs=3)
    given = Given(model, TARGET, None, 0)
    lesson = prepare(CFG, proxy, shots, std, given)
    assert not lesson.imposed
    seen = list(Batches(lesson, CFG, 3, torch.Generator().manual_seed(0)))
    scrubbed = torch.cat([rows for rows, scrubbing in seen if scrubbing])
    later = torch.cat([rows for rows, scrubbing in seen if not scrubbing])
    assert int(lesson.forget[scrubbed].sum()) == 3 * (40 + 2 * 6)
    assert not lesson.forget[later].any()
    assert torch.equal(torch.bincount(later, minlength=132)[~lesson.forget], torch.full((80,), 27))
    unlearned, _ = relearned(CFG, std, problem_of(model, shots, TARGET), proxy)
    assert answers(unlearned, shots)[:, TARGET].mean() < answers(model, shots)[:, TARGET].mean() / 2


def test_lesson_holds_soft_labels_and_the_shots(task) -> None:
    model, proxy, shots = task
    neg = intention("neg", form="complementary", cutoff=10.0)
    lesson = prepare(CFG, proxy, shots, neg, Given(model, TARGET, None, 0))
    assert torch.equal(lesson.labels[~lesson.forget], proxy.probabilities[proxy.retained])
    assert int(lesson.forget.sum()) == 40 + 12
    assert torch.equal(lesson.images[-6:], (shots * 255).round().to(torch.uint8))
    assert (lesson.labels[lesson.forget].argmax(-1) == TARGET).all()


def test_a_whole_class_has_no_share_in_the_others_labels(task) -> None:
    model, proxy, shots = task
    neg, given = intention("neg", form="complementary", cutoff=10.0), Given(model, TARGET, None, 0)
    proxy.whole = torch.tensor(True)
    lesson = prepare(CFG, proxy, shots, neg, given)
    labels, before = lesson.labels[~lesson.forget], proxy.probabilities[proxy.retained]
    assert (before[:, TARGET] > 0).all()
    assert (labels[:, TARGET] == 0).all()
    torch.testing.assert_close(labels.sum(-1), torch.ones(len(labels)))
    others = torch.arange(labels.shape[1]) != TARGET
    torch.testing.assert_close(
        labels[:, others], before[:, others] / before[:, others].sum(-1, keepdim=True)
    )
    assert (lesson.labels[lesson.forget].argmax(-1) == TARGET).all()  # as neg wants it


@pytest.mark.parametrize(("asked", "copies"), [(0, 0), (3, 3), (6, 6), (10, 6)])
def test_copies_of_the_shots_never_outnumber_the_samples(task, asked: int, copies: int) -> None:
    model, proxy, shots = task
    neg = intention("neg", form="complementary", cutoff=10.0)
    lesson = prepare(
        replace(CFG, shot_copies=asked), proxy, shots, neg, Given(model, TARGET, None, 0)
    )
    assert int((lesson.conditions == -1).sum()) == len(shots) * copies
    assert int(lesson.forget.sum()) == 40 + len(shots) * copies


def test_every_shot_enters_once_though_there_are_more_than_samples(task) -> None:
    model, proxy, shots = task
    neg = intention("neg", form="complementary", cutoff=10.0)
    many = torch.cat([shots] * 9)
    lesson = prepare(replace(CFG, shot_copies=2), proxy, many, neg, Given(model, TARGET, None, 0))
    assert int((lesson.conditions == -1).sum()) == len(many)


@pytest.mark.parametrize(("number", "copies"), [(6, 5), (12, 4), (30, 2), (90, 1)])
def test_shots_alone_are_no_more_than_the_samples_of_a_condition(
    task, number: int, copies: int
) -> None:
    model, proxy, shots = task
    proxy.conditions = torch.arange(len(proxy.images)) // 48  # 48 samples of each
    many = torch.cat([shots] * (number // len(shots)))
    alone = replace(CFG, forget="shots", shot_copies=5)
    neg = intention("neg", form="complementary", cutoff=10.0)
    lesson = prepare(alone, proxy, many, neg, Given(model, TARGET, None, 0))
    assert int(lesson.forget.sum()) == copies * number
    proxy.target_like[:] = False  # as of a stand-in
    lesson = prepare(alone, proxy, many, neg, Given(model, TARGET, None, 0))
    assert int(lesson.forget.sum()) == 5 * number


def test_dropped_samples_are_in_neither_part(task) -> None:
    model, proxy, shots = task
    proxy.dropped[50:60] = True
    neg = intention("neg", form="ascent", cutoff=10.0)
    lesson = prepare(replace(CFG, shot_copies=0), proxy, shots, neg, Given(model, TARGET, None, 0))
    assert len(lesson.forget) == 110
    assert int(lesson.forget.sum()) == 40


def test_second_best_never_names_the_target(task) -> None:
    model, _, shots = task
    labels = Neg("neg", 0, "second", 10.0).relabel(shots, Given(model, TARGET, None, 0))
    assert (labels[:, TARGET] == 0).all()
    torch.testing.assert_close(labels.sum(-1), torch.ones(6))
    p = answers(model, shots).clone()
    p[:, TARGET] = 0
    torch.testing.assert_close(labels, p / p.sum(-1, keepdim=True), atol=1e-4, rtol=1e-3)


def test_relearning_is_deterministic_and_leaves_random_state_alone(task) -> None:
    model, proxy, shots = task
    neg = intention("neg", form="ascent", cutoff=10.0)
    state = torch.get_rng_state()
    one, two, other = (
        relearned(
            replace(CFG, epochs=3),
            neg,
            problem_of(model, shots, TARGET, None, Augment(2), seed),
            proxy,
        )[0].state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_single_image_as_all_of_d_e_is_said(caplog: pytest.LogCaptureFixture) -> None:
    one = torch.zeros(1, 1, 8, 8)
    for forget, shots, told in (("shots", one, 1), ("samples", one, 0), ("shots", one[[0, 0]], 0)):
        caplog.clear()
        warn_of_one(RelearningConfig(forget=forget), shots)
        assert len(caplog.records) == told
