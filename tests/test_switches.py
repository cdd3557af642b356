"""Switches of inversion and filtration, one at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.helpers import shots_of, small_net, taught, tiny
from unlearn import Settings
from unlearn.engine.fitting import Fit
from unlearn.filtration import Filtration, FiltrationConfig, Proxy, split
from unlearn.filtration.filtrate import surplus
from unlearn.inversion import Generator, Generators, Inversion
from unlearn.problem import Interface, Problem

TARGET = 0


@pytest.fixture(scope="module")
def problem() -> Problem:
    shots, labels = shots_of(1, 28, 28)
    model = taught(small_net(), 1, 28, 28)
    return Problem.of(model, shots, labels, None, tiny().augment, 0, Interface())


def test_only_samples_made_for_plus_may_be_target_like() -> None:
    p = torch.eye(2)[torch.tensor([0, 0, 0, 0, 1])]
    distances = torch.tensor([0.1, 0.1, 0.9, 0.9, 0.1])
    plus = torch.tensor([True, False, True, False, True])
    like, dropped = split(FiltrationConfig(), distances, p, plus, 0.5, [TARGET])
    assert like.tolist() == [True, True, False, False, False]
    assert not dropped.any()
    like, dropped = split(FiltrationConfig(only_plus=True), distances, p, plus, 0.5, [TARGET])
    assert like.tolist() == [True, False, False, False, False]
    assert dropped.tolist() == [False, True, False, False, False]
    both = FiltrationConfig(only_plus=True, drop_unmatched=True)
    like, dropped = split(both, distances, p, plus, 0.5, [TARGET])
    assert like.tolist() == [True, False, False, False, False]
    assert dropped.tolist() == [False, True, True, False, True]


def test_of_the_label_the_nearest_samples_stay() -> None:
    distances = torch.tensor([0.5, 0.2, 0.9, 0.1, 0.3, 0.4])
    conditions = torch.tensor([0, 0, 0, 1, 0, 0])
    retained = torch.tensor([True, True, True, True, True, False])
    hard = FiltrationConfig(per_condition=2, own_label=3, own_label_hard=True)
    left_out = surplus(hard, distances, retained, conditions, TARGET)
    assert left_out.tolist() == [True, False, True, False, False, False]
    soft = replace(hard, own_label_hard=False)
    assert not surplus(soft, distances, retained, conditions, TARGET).any()


def made(settings: Settings, problem: Problem) -> tuple[Generator | Generators, Proxy]:
    """The generator and the proxy."""
    inversion = Inversion(settings.inversion)
    state, remark = inversion.make(problem, Fit())
    steps = [row["step"] for row in remark["history"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == settings.inversion.steps * settings.inversion.generators
    generator = inversion.generator(problem, state)
    tensors, _ = Filtration(settings.filtration).make(problem, generator)
    return generator, Proxy(**tensors)


def with_filtration(**values: object) -> Settings:
    base = tiny()
    # Every sample passes the refinement, so that the numbers are what is asked for.
    filtration = replace(base.filtration, t_ent=10.0, augmentations=0, per_condition=8, **values)  # type: ignore[arg-type]
    return replace(base, filtration=filtration)


def test_more_samples_of_the_label(problem: Problem) -> None:
    _, proxy = made(with_filtration(own_label=3), problem)
    assert proxy.conditions.bincount().tolist() == [24, 8, 8, 8, 8]


def test_fewer_rows_than_generators() -> None:
    """What refinement asks for last may be a single sample."""
    parts = [Generator(3, (1, 8, 8), width=1, z=4).eval() for _ in range(3)]
    z, y = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    for rows in range(5):
        images = Generators(parts)(z[:rows], y[:rows])
        assert images.shape == (rows, 1, 8, 8)
        for i in range(rows):
            own = slice(i % 3, rows, 3)
            assert torch.equal(images[own], parts[i % 3](z[own], y[own]))


def test_several_generators_share_the_samples(problem: Problem) -> None:
    settings = with_filtration()
    one, _ = made(settings, problem)
    two, proxy = made(
        replace(settings, inversion=replace(settings.inversion, generators=2)), problem
    )
    assert isinstance(one, Generator)
    assert isinstance(two, Generators)
    assert proxy.conditions.bincount().tolist() == [8] * 5
    z, y = torch.randn(6, one.z), torch.arange(6) % one.conditions
    with torch.no_grad():
        x, first, second = two(z, y), two.parts[0](z, y), two.parts[1](z, y)
        torch.testing.assert_close(x[::2], first[::2])
        torch.testing.assert_close(x[1::2], second[1::2])
        torch.testing.assert_close(first, one(z, y), rtol=0, atol=0)
        assert not torch.allclose(first, second)
