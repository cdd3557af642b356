"""On a GPU, or on what stands in for it where there is none: nothing is left on the CPU."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import TINY, shots_of, small_net, taught, tiny
from tests.standin import There
from unlearn import forget

Cli = Callable[..., tuple[int, str, str]]
SMALL = [*(x for x in TINY if not x.startswith("shot=")), "per_class=60", "shot=3img"]


def left(out: str) -> tuple[dict[str, object], list[list[str]]]:
    """A run's metrics and its history."""
    path = Path(out.strip().splitlines()[-1])
    rows = csv.reader((path.parent / "history.csv").open())
    return json.loads(path.read_text()), list(rows)


def test_a_run_begins_as_on_the_cpu(cli: Cli, gpu: torch.device, tmp_path: Path) -> None:
    settings = [*SMALL, "intention=neg", "track_predictions=true"]
    status, out, err = cli(*settings, "device=cuda")
    assert status == 0, err
    metrics, history = left(out)
    assert metrics["hardware"] == torch.cuda.get_device_name(gpu)
    assert {"training", "inversion", "relearning"} <= {row[0] for row in history}
    if isinstance(torch.ones(1, device=gpu), There):  # with the same random numbers
        (tmp_path / "out").rename(tmp_path / "of-gpu")
        _, on_cpu = left(cli(*settings, "device=cpu")[1])
        first = [[float(v) for _, _, _, v in rows[1:11]] for rows in (history, on_cpu)]
        np.testing.assert_allclose(first[0], first[1], rtol=1e-5)


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within, torch refuses what a GPU gives other numbers for each time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "how",
    [
        ["intention=unt", "relearning.fresh=true", "relearning.candidates=2", "model.norm=layer"],
        ["intention=std", "relearning.batchnorm=train", "filtration.drop_unmatched=true"],
        ["scenario=class_mnist", "intention=std", "shot=1img", "filtration.whole_class=true"],
    ],
)
def test_ours(how: list[str], cli: Cli, gpu: torch.device, repeatable: None) -> None:
    status, _, err = cli(*SMALL, *how, "device=cuda")
    assert status == 0, err


def test_baselines(cli: Cli, gpu: torch.device) -> None:
    names = "baseline=oracle,incompetent,neutralized,fisher,logit_mask"
    status, _, err = cli("-m", *SMALL, "scenario=class_mnist", names, "shot=1.0", "device=cuda")
    assert status == 0, err
    assert "5 of 5" in err


def test_the_stand_in_knows_what_does_not_repeat(gpu: torch.device, repeatable: None) -> None:
    x, index = torch.rand(2, 3, device=gpu), torch.zeros(2, 3, dtype=torch.long, device=gpu)
    grid = torch.zeros(1, 2, 2, 2, device=gpu)
    image = torch.rand(1, 1, 4, 4, device=gpu, requires_grad=True)
    sampled = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    with pytest.raises(RuntimeError, match="deterministic"):
        sampled.sum().backward()
    if isinstance(x, There):  # a GPU's other way is slower, but there
        with pytest.raises(RuntimeError, match="deterministic"):
            x.scatter_add(1, index, x)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_model_and_shots_on_a_gpu_stay_there(fresh: bool, gpu: torch.device) -> None:
    settings = tiny(steps=10)
    settings = replace(settings, relearning=replace(settings.relearning, fresh=fresh))
    model, (shots, labels) = taught(small_net(), 1, 28, 28).to(gpu), shots_of(1, 28, 28)
    given = shots.to(gpu), labels.to(gpu), "cor", labels.to(gpu) + 1
    result = forget(model, *given, settings=settings)
    assert {p.device for p in result.model.parameters()} == {gpu}
    assert result.model(shots.to(gpu)).isfinite().all()
    assert {p.device for p in model.parameters()} == {gpu}


def test_the_stand_in_refuses_what_a_gpu_refuses(gpu: torch.device) -> None:
    there, here = torch.rand(3, 2, device=gpu), torch.rand(3, 2)
    for mixed in (
        lambda: there + here,
        lambda: here.index_select(0, torch.tensor([0], device=gpu)),
        lambda: here[torch.tensor([0], device=gpu)],
        lambda: there.index_put_((torch.tensor([0]),), here[:1]),
        lambda: torch.cat([there, here]),
        lambda: torch.rand(2, generator=torch.Generator(gpu)),
        lambda: torch.rand(2, device=gpu, generator=torch.Generator()),
        lambda: torch.nn.Linear(2, 2)(there),
    ):
        with pytest.raises(RuntimeError):
            mixed()
    with pytest.raises(TypeError):
        there.numpy()
    assert there.cpu().numpy().shape == (3, 2)
    assert (there + 1 * torch.tensor(2.0))[torch.tensor([0, 1])].device == gpu
