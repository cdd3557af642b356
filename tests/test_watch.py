"""Predictions counted over the epochs of a stage, without touching it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from tests.helpers import shots_of, small_net, taught, tiny
from unlearn import Watch, forget
from unlearn.data import Images
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit
from unlearn.training import TrainingConfig, train

CPU = torch.device("cpu")


class Drawing(nn.Module):
    """Draws a random number in every pass, in whatever mode it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(()) * 0


def images(number: int) -> torch.Tensor:
    torch.manual_seed(4)
    return torch.randint(0, 256, (number, 1, 28, 28), dtype=torch.uint8)


def test_counting_leaves_modes_and_random_state_alone() -> None:
    model = nn.Sequential(small_net(), Drawing(), nn.Dropout(0.5)).train()
    model[0][1].eval()
    modes = [m.training for m in model.modules()]
    watch = Watch(images(700), 6)
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    counts = watch.count(model)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    model.eval()
    expected = model(watch.images / 255).argmax(-1).bincount(minlength=6)
    assert counts == expected.tolist()


def test_training_with_a_watch_is_the_same_training() -> None:
    data = Images(images(50), torch.arange(50) % 4)
    cfg = TrainingConfig(3, 16, 0.05, 0.9, 0.0, "onecycle", 0)
    watch = Watch(images(30), 4)
    states, histories = [], []
    for w in (None, watch):
        model = nn.Sequential(small_net(), Drawing())
        torch.manual_seed(7)
        histories.append(train(cfg, model, data, Augment(2), CPU, Fit(watch=w)))
        states.append(model.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert histories[0] == histories[1]
    seen = watch.predictions["training"]
    assert seen["epoch"] == [1.0, 2.0, 3.0]
    assert [sum(row) for row in seen["counts"]] == [30] * 3
    assert seen["counts"][-1] == watch.count(model)
    assert seen["counts"][0] != seen["counts"][-1]


def test_a_stage_stored_without_counts_is_not_taken_for_one_with(tmp_path: Path) -> None:
    model = taught(small_net(), 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)

    def run(watch: Watch | None) -> object:
        # std scrubs in its first epochs, which are longer than the later ones.
        return forget(model, shots, labels, "std", settings=tiny(), store=tmp_path, watch=watch)

    plain, seen, again, other = (
        run(w) for w in (None, Watch(images(30), 4), Watch(images(30), 4), Watch(images(31), 4))
    )
    assert plain.predictions == {}
    torch.testing.assert_close(plain.model.state_dict(), seen.model.state_dict(), rtol=0, atol=0)
    counts = seen.predictions["relearning"]
    assert counts["counts"][-1] == Watch(images(30), 4).count(seen.model)
    assert counts["epoch"] == [1.0 + e for e in range(len(counts["counts"]))]
    assert again.predictions == seen.predictions
    assert again.seconds == seen.seconds
    assert sum(other.predictions["relearning"]["counts"][0]) == 31
    assert len(list(tmp_path.glob("relearning/*/tensors.safetensors"))) == 3
    for stage in ("inversion", "filtration"):
        assert len(list(tmp_path.glob(f"{stage}/*/tensors.safetensors"))) == 1
