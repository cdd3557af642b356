"""Batches of one image, which a BatchNorm in train mode refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import (
    QUICK,
    access_to,
    baseline_of,
    by_parts,
    problem_of,
    small_classifier,
    small_net,
    small_task,
    tiny,
    written_proxy,
)
from unlearn import UserError, settings
from unlearn.baselines.base import BaselineStage
from unlearn.config import check
from unlearn.config.compose import resolve
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit
from unlearn.relearning import Relearning
from unlearn.scenarios import Task
from unlearn.training import train


def only(task: Task, chosen: Tensor) -> Task:
    """The task with a part of its training images."""
    return replace(task, train=task.train[chosen], forget=task.forget[chosen])


@pytest.mark.parametrize(("number", "forgotten"), [(33, 17), (17, 1), (2, 1)])
def test_no_training_meets_a_batch_of_one_image(number: int, forgotten: int) -> None:
    """D, D_e and D_r of one image more than whole batches, or of one image."""
    task = small_task(300)
    access = access_to(small_task(40))
    inside = task.forget.nonzero()[:forgotten, 0]
    others = (~task.forget).nonzero()[: number - forgotten, 0]
    task = only(task, torch.cat([inside, others]))
    for name in ("incompetent", "neutralized", "oracle"):
        baseline = baseline_of(name, "scale=demo")
        if name != "oracle":
            baseline = replace(baseline, batch_size=16, epochs=1)  # type: ignore[call-arg]
        given = replace(access, task=task, given=task.forget.clone())
        state, _ = BaselineStage(baseline, {}).make(given)
        assert all(v.isfinite().all() for v in state.values())
    model = small_classifier()
    train(QUICK, model, task.train, Augment(0, 0), torch.device("cpu"), Fit())
    assert all(v.isfinite().all() for v in model.state_dict().values())


class Batched(nn.BatchNorm1d):
    """Refuses what a BatchNorm refuses, and what it should never see."""

    def forward(self, input: Tensor) -> Tensor:
        assert not self.training or len(input) > 1
        return super().forward(input)


@pytest.mark.parametrize("intention", ["std", "unt", "neg"])
@pytest.mark.parametrize("kept", [1, 5, 9])
def test_relearning_meets_no_batch_of_one_image(intention: str, kept: int) -> None:
    """D~_r alone, and D~_r with D~_e, of one sample more than whole batches of four; and of one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), Batched(8), nn.Linear(8, 4)).eval()
    problem = problem_of(model, torch.rand(5, 1, 16, 16), 0)
    proxy = written_proxy(problem, kept + 4)
    proxy.target_like = torch.arange(kept + 4) >= kept
    cfg = replace(tiny().relearning, epochs=3, batch_size=4, batchnorm="train", shot_copies=0)
    stage = tiny().stages(tiny().intention(intention))[2]
    state, _ = Relearning(cfg, stage.intention).make(problem, proxy, None, Fit())  # type: ignore[arg-type]
    assert all(v.isfinite().all() for v in state.values())


def test_a_batch_size_of_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"^relearning\.batch_size: 1 is not"):
        by_parts(small_net(), torch.rand(5, 1, 28, 28), torch.zeros(5).long(), batch_size=1)
    for key in ("training.batch_size", "relearning.batch_size"):
        with pytest.raises(UserError, match=rf"^{key}: 1 is not a whole number from 2"):
            settings("demo", f"{key}=1")
    for name in ("incompetent", "neutralized"):
        with pytest.raises(UserError, match=r"^baseline\.batch_size: 1 is not"):
            check(resolve([f"baseline={name}", "baseline.batch_size=1"]))
