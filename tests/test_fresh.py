"""Fresh samples while relearning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers import problem_of, relearned, small_net
from unlearn.engine.augment import Augment
from unlearn.engine.seeding import seeded
from unlearn.filtration import Filter, FiltrationConfig, Proxy
from unlearn.filtration.mmd import mmd_to
from unlearn.inversion import Generator
from unlearn.models.probe import Probe, head_of
from unlearn.relearning import RelearningConfig
from unlearn.relearning.fresh import Fresh, kl
from unlearn.relearning.intentions import INTENTIONS, Given, Intention
from unlearn.relearning.lesson import Lesson, prepare

TARGET, PLUS = 1, 4
CFG = RelearningConfig(
    epochs=3,
    batch_size=16,
    lr=0.02,
    weight_decay=0.0,
    clip=1.0,
    batchnorm="frozen",
    shot_copies=1,
    fresh=True,
)
FILTRATION = FiltrationConfig(augmentations=1, t_ent=1.0)


class Painter(Generator):
    """Images whose brightness is the condition's; z adds a little."""

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        light = (y / 6 + 0.02 * z[:, 0].tanh() + 0.05).clamp(0, 1)
        return light[:, None, None, None].expand(-1, 1, 28, 28)


class World:
    """A model that tells brightnesses apart, its proxy, shots and sampler."""

    def __init__(self, intention: str = "cor", **more: object) -> None:
        torch.manual_seed(0)
        self.generator = Painter(PLUS + 1, (1, 28, 28), 2, 3)
        self.model = self.taught()
        self.shots = self.generator(torch.randn(5, 3), torch.full((5,), PLUS))
        self.probe = Probe(self.model, head_of(self.model, self.shots))
        z, y = torch.randn(60, 3), torch.arange(60) % (PLUS + 1)
        images = (self.generator(z, y) * 255).round().to(torch.uint8)
        with torch.no_grad(), self.probe:
            near = self.probe(self.shots)[1].double()
            logits, seen = self.probe(images / 255)
        bandwidths = torch.pdist(seen.double()).median()[None] / 4
        p, distances = logits.softmax(-1), mmd_to(seen.double(), near, bandwidths)
        t_f = distances[y == PLUS].max() + 0.01
        like = (distances < t_f) & (p.argmax(-1) == TARGET)
        none, no = like & ~like, torch.tensor(False)
        self.proxy = Proxy(images, p, y, distances, distances[:5], like, none, t_f, bandwidths, no)
        values = {"form": "second", "cutoff": 9.0} if intention == "neg" else more
        self.intention: Intention = INTENTIONS[intention](name=intention, **values)  # type: ignore
        self.given = Given(self.model, TARGET, 3, 0)

    def taught(self) -> nn.Module:
        """TARGET for y+ too, as D_e is labelled."""
        model = small_net()
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(80):
            z, y = torch.randn(50, 3), torch.arange(50) % (PLUS + 1)
            labels = torch.where(y == PLUS, TARGET, y)
            loss = nn.functional.cross_entropy(model(self.generator(z, y)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model.eval().requires_grad_(False)

    def sampler(self, **how: Any) -> Filter:
        cfg = replace(FILTRATION, **how)
        return Filter(cfg, self.generator, self.probe, Augment(0, 0), seeded(0, "fresh"))

    def lesson(self) -> Lesson:
        return prepare(CFG, self.proxy, self.shots, self.intention, self.given)

    def fresh(self, candidates: int = 1, model: nn.Module | None = None, **how: Any) -> Fresh:
        return Fresh(
            self.lesson(),
            self.sampler(**how),
            self.given,
            problem_of(self.model, self.shots, TARGET, 3),
            self.proxy,
            model or self.model,
            candidates,
        )


def test_each_stored_sample_gives_way_to_another_of_its_condition() -> None:
    world = World()
    lesson, rows = world.lesson(), torch.arange(65)
    stored, new, again = lesson.take(rows), world.fresh().take(rows), world.fresh().take(rows)
    given = lesson.conditions < 0
    assert int(given.sum()) == 5
    assert torch.equal(new.images[given], stored.images[given])
    assert new.forget[given].all()
    assert not torch.equal(new.images[~given], stored.images[~given])
    brightness = (new.images.mean((1, 2, 3)) - 0.05) * 6
    assert torch.equal(brightness.round().long()[~given], lesson.conditions[~given])
    assert all(
        torch.equal(a, b) for a, b in zip(vars(new).values(), vars(again).values(), strict=True)
    )
    assert torch.equal(new.forget, (lesson.conditions == PLUS) | given)
    assert torch.equal(new.retain, ~new.forget)
    assert (new.labels[new.forget].argmax(-1) == 3).all()
    with torch.no_grad():
        answers = world.model(new.images[new.retain]).softmax(-1)
    torch.testing.assert_close(new.labels[new.retain], answers)


def test_of_a_whole_class_fresh_samples_are_split_and_labelled_like_stored_ones() -> None:
    world, rows = World(), torch.arange(60)
    world.proxy.threshold = torch.tensor(0.0)  # none is near
    assert not world.fresh().take(rows).forget.any()
    new = world.fresh(whole_class=True).take(rows)
    assert new.forget.any()
    assert torch.equal(new.retain, ~new.forget)
    assert (new.labels[new.retain][:, TARGET] == 0).all()
    assert (new.labels[new.retain].sum(-1) - 1).abs().max() < 1e-5


def test_what_is_not_refined_counts_for_nothing() -> None:
    world = World()
    new = world.fresh(t_ent=1e-9).take(torch.arange(60))
    assert not new.retain.any()
    assert not new.forget[world.lesson().conditions[:60] >= 0].any()


def test_of_candidates_the_one_that_the_model_departs_most_on() -> None:
    world, model = World(), small_net(seed=9).requires_grad_(False)
    rows = torch.arange(60)
    taken = world.fresh(3, model).take(rows)
    one = world.fresh(1, model)
    made = [one.take(rows) for _ in range(3)]  # the same draws, one candidate at a time
    for i in range(60):
        wanted = made[0]
        if made[0].retain[i]:
            with torch.no_grad():
                gaps = [
                    float(kl(m.labels[i : i + 1], model(m.images[i : i + 1])))
                    if m.retain[i]
                    else -1.0
                    for m in made
                ]
            wanted = made[gaps.index(max(gaps))]
        assert torch.equal(taken.images[i], wanted.images[i])
    assert any(not torch.equal(taken.images[i], made[0].images[i]) for i in range(60))


def test_kl_is_the_divergence() -> None:
    p, logits = torch.rand(4, 3).softmax(-1), torch.rand(4, 3)
    literal = (p * (p.log() - logits.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(kl(p, logits), literal)


@pytest.mark.parametrize("intention", ["cor", "neg", "std", "unt"])
@pytest.mark.parametrize("candidates", [1, 2])
def test_relearning_on_fresh_samples(intention: str, candidates: int) -> None:
    world = World(intention, scrub_epochs=1)
    cfg = replace(CFG, candidates=candidates, epochs=12)
    before = {k: v.clone() for k, v in world.model.state_dict().items()}
    problem = problem_of(world.model, world.shots, TARGET, 3)
    models = [
        relearned(cfg, world.intention, problem, world.proxy, world.sampler())[0] for _ in range(2)
    ]
    states = [m.state_dict() for m in models]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert all(torch.equal(before[k], v) for k, v in world.model.state_dict().items())
    with torch.no_grad():
        answers = models[0](world.shots).softmax(-1)
        kept = world.proxy.images[world.proxy.retained] / 255
        rest = models[0](kept).argmax(-1) == world.model(kept).argmax(-1)
    if intention == "cor":
        assert (answers.argmax(-1) == 3).all()
    if intention == "neg":
        assert (answers.argmax(-1) != TARGET).all()
    assert rest.float().mean() > 0.7
