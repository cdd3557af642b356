"""Data sources, the crossed-seven annotation, the scenarios' tasks, the shots."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from unlearn import UserError
from unlearn.data import SOURCES, digests, list_sources
from unlearn.data.crossed_sevens import load_annotation
from unlearn.scenarios import SCENARIOS, list_scenarios, load_task, take_shots
from unlearn.scenarios.base import fit_size, shot_count


def annotation() -> dict:
    return json.loads(resources.files("unlearn.data").joinpath("crossed_sevens.json").read_text())


def test_annotation_counts() -> None:
    listed = annotation()
    assert len(listed["train"]) == len(set(listed["train"])) == 826
    assert len(listed["test"]) == len(set(listed["test"])) == 138
    assert [len(set(listed["digests"][s])) for s in ("train", "test")] == [826, 138]


def test_annotation_is_all_sevens_in_full_mnist(full_mnist: Path) -> None:
    listed, pair = annotation(), SOURCES["mnist"]().load(full_mnist)
    for split, images in (("train", pair.train), ("test", pair.test)):
        assert (images.y[listed[split]] == 7).all()
        assert digests(images.x[listed[split]]) == listed["digests"][split]


def test_full_scenarios_have_the_annotated_numbers(full_mnist: Path) -> None:
    noisy = SCENARIOS["7noisymnist"]("7noisymnist", {})
    task = load_task(noisy, "mnist", full_mnist, 32, None)
    assert (int(task.forget.sum()), int(task.test_forget.sum())) == (826, 138)
    assert task.shape == (1, 32, 32)
    assert (task.train.y[task.forget] == 2).all()
    assert (task.test.y[task.test_forget] == 7).all()
    assert len(take_shots(task, 0.03, 0).labels) == 25


def test_mnist5k_split() -> None:
    pair = SOURCES["mnist5k"]().load(Path("nowhere"))
    known = load_annotation(None)
    crossed = [torch.tensor([d in known for d in digests(p.x)]) for p in (pair.train, pair.test)]
    assert [int(c.sum()) for c in crossed] == [45, 25]
    assert len(pair.train) + len(pair.test) == 5000
    assert not set(digests(pair.train.x)) & set(digests(pair.test.x))
    assert all((p.y[c] == 7).all() for p, c in zip((pair.train, pair.test), crossed, strict=True))
    assert min(torch.bincount(pair.test.y)) >= 95


@pytest.mark.parametrize(
    ("name", "target", "correct", "label"), [("7noisymnist", 2, 7, 2), ("7mnist", 7, None, 7)]
)
def test_crossed_seven_tasks(name: str, target: int, correct: int | None, label: int) -> None:
    task = load_task(SCENARIOS[name](name, {}), "mnist5k", Path("x"), None, None)
    assert (task.target, task.correct, task.counted) == (target, correct, 7)
    assert (task.train.y[task.forget] == label).all()
    assert ((task.train.y == 7) & ~task.forget).sum() > 300


def test_class_task_takes_the_whole_class() -> None:
    scenario = SCENARIOS["class_mnist"]("class_mnist", {}, digit=7)
    task = load_task(scenario, "mnist5k", Path("x"), 32, None)
    assert torch.equal(task.forget, task.train.y == 7)
    assert torch.equal(task.test_forget, task.test.y == 7)


def test_shot_count() -> None:
    assert [shot_count(s, 826) for s in (1.0, 1, 0.03, 0.0001, "1img", "24img")] == [
        826,
        826,
        25,
        1,
        1,
        24,
    ]
    for wrong in (0, -1, 1.5, "0img", "img", "-3img", "abc", "900img", "3", float("nan")):
        with pytest.raises(UserError, match=r"^shot: "):
            shot_count(wrong, 826)


def test_shots_come_from_the_forget_set_and_follow_the_seed() -> None:
    task = load_task(SCENARIOS["7noisymnist"]("x", {}), "mnist5k", Path("x"), None, None)
    shots, again, other = (take_shots(task, 0.3, s) for s in (0, 0, 1))
    assert torch.equal(shots.images, again.images)
    assert not torch.equal(shots.images, other.images)
    given = set(digests((shots.images * 255).round().to(torch.uint8)))
    assert given <= set(digests(task.train.x[task.forget]))
    assert len(given) == 14


def test_fit_size() -> None:
    x = torch.randint(0, 255, (3, 1, 28, 28), dtype=torch.uint8)
    padded = fit_size(x, 32)
    assert torch.equal(padded[:, :, 2:30, 2:30], x)
    assert int(padded.sum()) == int(x.sum())
    small = fit_size(torch.full((2, 3, 40, 60), 77, dtype=torch.uint8), 32)
    assert small.shape == (2, 3, 32, 32)
    assert (small == 77).all()


def test_registries_list_by_glob() -> None:
    assert list_scenarios("class_*") == ["class_cifar10", "class_folder", "class_mnist"]
    assert "mnist5k" in list_sources("mnist*")


def test_another_annotation(tmp_path: Path) -> None:
    scenario = SCENARIOS["7mnist"]
    task = load_task(scenario("7mnist", {}), "mnist5k", Path("x"), None, None)
    listed = annotation()
    listed["digests"] = {
        "train": digests(task.train.x[task.forget])[:6],
        "test": digests(task.test.x[task.test_forget])[:4],
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(listed))
    mine = scenario("7mnist", {}, annotation=str(path))
    assert mine.identity() != scenario("7mnist", {}).identity()
    found = load_task(mine, "mnist5k", Path("x"), None, None)
    assert (int(found.forget.sum()), int(found.test_forget.sum())) == (6, 4)


@pytest.mark.parametrize("content", [None, "{}", "nonsense", '{"digests": {"train": 3}}'])
def test_a_broken_annotation_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"^scenario\.annotation"):
        load_annotation(str(path))
