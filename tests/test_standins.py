"""What stands in for D~_r in place of inversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.helpers import CELL, errors, shots_of, small_net, taught, tiny
from unlearn import forget
from unlearn.config.compose import resolve
from unlearn.config.saved import read_config
from unlearn.engine.augment import Augment
from unlearn.engine.seeding import seeded
from unlearn.filtration import FiltrationConfig
from unlearn.problem import Interface, Problem
from unlearn.standins import STANDINS, StandInStage
from unlearn.standins.patches import Patches

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def problem() -> Problem:
    shots, labels = shots_of(1, 28, 28)
    return Problem.of(small_net(), shots, labels, None, Augment(2), 0, Interface())


@pytest.mark.parametrize("name", ["patches", "noise", "untrained"])
def test_images_are_seeded_and_in_range(name: str, problem: Problem) -> None:
    made_by = Patches(size=7) if name == "patches" else STANDINS[name]()
    first, again, other = (made_by.images(problem, 10, seeded(s, "standin")) for s in (0, 0, 1))
    assert first.shape == (10, 1, 28, 28)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_patches_are_the_shots_own(problem: Problem) -> None:
    images = Patches(size=14).images(problem, 5, seeded(0, "standin"))
    places = [(i, j) for i in (0, 14) for j in (0, 14)]
    known = {
        tuple(s[0, i : i + 14, j : j + 14].flatten().tolist())
        for s in problem.shots
        for i, j in places
    }
    for image in images:
        for i, j in places:
            assert tuple(image[0, i : i + 14, j : j + 14].flatten().tolist()) in known


def test_patches_are_as_large_as_divides_the_image(problem: Problem) -> None:
    for asked, used in ((13, 7), (8, 7), (5, 4), (1, 1)):
        images, same = (Patches(size=s).images(problem, 3, seeded(0, "x")) for s in (asked, used))
        assert torch.equal(images, same)


def test_the_proxy_has_f_os_answers_and_nothing_target_like(problem: Problem) -> None:
    stage = StandInStage(STANDINS["noise"](), FiltrationConfig(per_condition=6))
    tensors, _ = stage.make(problem)
    assert len(tensors["images"]) == 6 * 5
    assert not tensors["target_like"].any()
    with torch.no_grad():
        expected = problem.original(tensors["images"] / 255).softmax(-1)
    torch.testing.assert_close(tensors["probabilities"], expected)


def test_forgetting_without_inversion() -> None:
    model = taught(small_net(), 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)
    base = tiny()
    relearning = replace(
        base.relearning, epochs=40, lr=0.01, clip=1.0, shot_copies=10, teacher="view"
    )
    settings = replace(base, proxy=Patches(size=7), relearning=relearning)
    result = forget(model, shots, labels, settings=settings)
    assert result.generator is None
    assert list(result.stages) == ["standin", "relearning"]
    with torch.no_grad():
        assert (result.model(shots).argmax(-1) != labels).all()


def test_from_the_command_line(cli: Run) -> None:
    words = [*CELL, "scenario=7noisymnist", "intention=cor", "proxy=patches", "proxy.size=7"]
    status, out, _ = cli(*words, "shot=5img", "relearning.shot_copies=2")
    assert status == 0
    assert "metrics.json" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["proxy=patches"], "relearning.shot_copies: 0"),
        (["proxy=patches", "relearning.shot_copies=2", "proxy.size=0"], "proxy.size: 0"),
        (["proxy=noise", "relearning.shot_copies=2", "relearning.fresh=true"], "relearning.fresh"),
        (["proxy=nois"], "did you mean 'noise'"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], said: str, cli: Run) -> None:
    status, _, err = cli("scale=paper", *words)
    assert status == 2
    assert said in errors(err)[0]


@pytest.mark.parametrize("name", STANDINS.list())
def test_a_runs_configuration_is_read_back(name: str, tmp_path: Path) -> None:
    cfg = resolve(["scale=demo", f"proxy={name}", "relearning.shot_copies=2"])
    path = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.structured(cfg), path)
    assert read_config(path).proxy == cfg.proxy
