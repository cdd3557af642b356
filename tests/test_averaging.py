"""The mean of the last steps' weights."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from tests.golden import CORRECT, given_generator, given_problem, given_proxy
from unlearn.config import check, resolve
from unlearn.engine.fitting import Fit
from unlearn.errors import UserError
from unlearn.relearning import RelearningConfig
from unlearn.relearning.averaging import TailMean
from unlearn.relearning.intentions.cor import Cor
from unlearn.relearning.relearn import Relearning


class Weights(pl.Callback):
    """What a model's weights are after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        model = pl_module.get_submodule("model")
        self.seen.append({k: v.clone() for k, v in model.state_dict().items()})


def relearnt(average: float | None, batchnorm: str) -> tuple[dict[str, torch.Tensor], Weights]:
    cfg = RelearningConfig(3, 12, 0.01, shot_copies=2, average=average, batchnorm=batchnorm)
    weights = Weights()
    problem = given_problem()
    proxy = given_proxy(problem, given_generator(), whole=False)
    stage = Relearning(cfg, Cor(), (CORRECT,))
    state, _ = stage.make(problem, proxy, None, Fit((weights,)))
    return state, weights


@pytest.mark.parametrize("batchnorm", ["train", "frozen"])
@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_the_last_weights_are_averaged(share: float, batchnorm: str) -> None:
    state, weights = relearnt(share, batchnorm)
    last = weights.seen[-max(1, round(share * len(weights.seen))) :]
    buffers = "running_", "num_batches"
    for key, value in state.items():
        if any(b in key for b in buffers):
            assert torch.equal(value, last[-1][key])
        else:
            wanted = torch.stack([w[key] for w in last]).mean(0)
            torch.testing.assert_close(value, wanted)


def test_off_it_changes_nothing() -> None:
    state, weights = relearnt(None, "train")
    mean, _ = relearnt(0.5, "train")
    assert all(torch.equal(v, weights.seen[-1][k]) for k, v in state.items())
    assert any(not torch.equal(v, mean[k]) for k, v in state.items())


def test_an_early_end_keeps_the_last_weights() -> None:
    """Where training ends before the last steps begin."""
    module = pl.LightningModule()
    module.model = nn.Linear(2, 2)
    before = module.model.weight.clone()
    TailMean(0.5).on_train_end(pl.Trainer(logger=False, accelerator="cpu"), module)
    assert torch.equal(module.model.weight, before)


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_is_within_0_and_1(share: float) -> None:
    with pytest.raises(UserError, match=r"relearning\.average"):
        check(resolve(["scenario=7mnist", "intention=neg", f"relearning.average={share}"]))
