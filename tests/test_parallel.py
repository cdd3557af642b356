"""Two processes on one batch: the same losses, weights and counts as one."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import nn

from tests.conftest import small_net
from tests.test_unlearner import shots_of, taught, tiny
from unlearn import TrainingDiverged, UserError, Watch, forget, parallel
from unlearn.augment import Augment
from unlearn.data import Images
from unlearn.filtration import Proxy
from unlearn.inversion import Inversion, InversionConfig, build_generator, invert
from unlearn.inversion.invert import Weights
from unlearn.models.probe import head_of
from unlearn.relearning import INTENTIONS, RelearningConfig, relearn
from unlearn.trainer import ENVIRONMENT, check_devices
from unlearn.training import TrainingConfig, train

CPU = torch.device("cpu")
History = list[dict[str, float]]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Partly(nn.Module):
    """A network beside parameters that its answers do not depend on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.spare = network, nn.Linear(1, 1)
        network[1].momentum = None
        network[4].weight = network[4].bias = None
        network[4].affine = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def images(number: int) -> torch.Tensor:
    return torch.randint(0, 256, (number, 1, 28, 28), dtype=torch.uint8)


def assert_same(one: tuple[nn.Module, History], two: tuple[nn.Module, History]) -> None:
    """Every step's losses, and the final weights and running statistics."""
    assert len(one[1]) == len(two[1]) > 2
    for a, b in zip(one[1], two[1], strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    for name, value in one[0].state_dict().items():
        torch.testing.assert_close(two[0].state_dict()[name], value, rtol=1e-3, atol=1e-5)
    assert one[0].state_dict().keys() == two[0].state_dict().keys()
    assert one[1][0]["loss"] != one[1][-1]["loss"]


def test_training_counts_and_batches_smaller_than_the_world() -> None:
    # 22 rows by 7: shares of 3 and 4, and a last batch of one row.
    data, shown = Images(images(22), torch.arange(22) % 4), images(30)
    cfg = TrainingConfig(2, 7, 0.02, 0.9, 1e-3, "onecycle", 0)
    runs, watches = [], []
    environment = {name: os.environ.get(name) for name in ENVIRONMENT}
    for devices in (1, 2):
        model, watch = Partly(small_net()), Watch(shown, 4)
        history = train(cfg, model, data, Augment(2), CPU, watch=watch, devices=devices)
        assert not any(m.training for m in model.modules())
        runs.append((model, history))
        watches.append(watch.predictions["training"])
    assert_same(*runs)
    assert watches[0]["epoch"] == watches[1]["epoch"] == [1.0, 2.0]
    assert watches[0]["counts"] == watches[1]["counts"]
    assert {name: os.environ.get(name) for name in ENVIRONMENT} == environment


def test_relearning_with_unequal_shares() -> None:
    model, like = small_net().requires_grad_(False), torch.arange(30) < 9
    pictures, nothing = images(30), torch.zeros(30)
    p = model(pictures / 255).softmax(-1)
    proxy = Proxy(
        pictures,
        p,
        p.argmax(-1),
        nothing,
        nothing[:2],
        like,
        like & ~like,
        torch.tensor(1.0),
        torch.ones(1),
        torch.tensor(False),
    )
    cfg = RelearningConfig(3, 13, 0.02, 0.9, 0.0, 1.0, "train", 2.0, 1, 1.0, False, 1, "ascent")
    std = INTENTIONS["std"](name="std", scrub_epochs=1)
    shots = images(4) / 255
    assert_same(
        *(
            relearn(cfg, model, proxy, shots, std, 1, None, Augment(2), 0, devices=devices)
            for devices in (1, 2)
        )
    )


def test_inversion_with_every_loss() -> None:
    cfg = InversionConfig(
        steps=4,
        batch_size=15,
        lr=1e-3,
        betas=[0.5, 0.999],
        weight_decay=0.0,
        schedule="cosine",
        z=8,
        width=3,
        emphasis=2.0,
        weights=Weights(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        augmentations=2,
        tar_copies=2,
        squared=False,
        div_scaled=True,
        tv_reduction="mean",
        grid_every=0,
    )
    model, shots = small_net().requires_grad_(False), images(5) / 255
    before = copy.deepcopy(model.state_dict())
    runs = []
    for devices in (1, 2):
        generator = build_generator(cfg, 4, (1, 28, 28), 0)
        for layer in (generator.body[1], generator.body[4]):
            # BatchNorm takes them out again: what Adam makes of their gradients is rounding.
            layer.bias.requires_grad_(False)
        head = head_of(model, shots)
        module = Inversion(cfg, generator, model, shots, 1, 4, Augment(2), 0, head)
        runs.append((generator, invert(module, CPU, devices=devices)))
        assert not any(m._forward_pre_hooks for m in model.modules())
    assert_same(*runs)
    assert {"ent", "aug", "tar", "bn", "div", "div_pixel", "tv"} <= set(runs[1][1][-1])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(UserError, match=r"^trainer\.devices: 16 .* inversion\.batch_size=15"):
        invert(module, CPU, devices=16)


def test_nan_in_another_process_is_said_here() -> None:
    with pytest.raises(TrainingDiverged, match=r"^inversion: .* step \d+;") as caught:
        forget(small_net(), *shots_of(1, 28, 28), settings=tiny(lr=1e38), devices=2)
    assert caught.value.stage == "inversion"
    assert caught.value.step < 40


def test_devices_reach_every_trained_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearn.inversion import invert as inversion
    from unlearn.relearning import relearn as relearning
    from unlearn.stage import fit

    seen = {}

    def one(module, *args, devices=1, **kwargs):  # type: ignore[no-untyped-def]
        seen[module.stage] = devices
        return fit(module, *args, **kwargs)

    for user in (inversion, relearning):
        monkeypatch.setitem(user.__globals__, "fit", one)
    model = taught(small_net(), 1, 28, 28)
    forget(model, *shots_of(1, 28, 28), settings=tiny(), devices=3)
    assert seen == {"inversion": 3, "relearning": 3}


def test_devices_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "device_count", lambda: 3)
        check_devices(2, torch.device("cuda:1"))
        check_devices(64, CPU)
        for devices, device in ((4, "cuda:0"), (3, "cuda:1"), (2, "mps")):
            with pytest.raises(UserError, match=r"^trainer\.devices: "):
                check_devices(devices, torch.device(device))
    model = small_net()
    model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UserError, match=r"^trainer\.devices: .*pickle"):
        forget(model, *shots_of(1, 28, 28), settings=tiny(), devices=2)
    assert not parallel.dist.is_initialized()
