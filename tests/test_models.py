"""Classifiers, looking inside them, reading checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import small_net
from unlearn import UserError
from unlearn.engine.statistics import (
    Rows,
    channel_means,
    channel_statistics,
    statistics_and_means,
)
from unlearn.inversion.generator import DoublingConv2d
from unlearn.models import ModelConfig, build, list_models
from unlearn.models.base import InstanceNorm
from unlearn.models.checkpoint import load_checkpoint
from unlearn.models.probe import Probe, head_of, running_norms, watched_layers


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("norm", ["batch", "layer", "instance"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_classifiers(name: str, norm: str, shape: tuple[int, int, int]) -> None:
    model = build(ModelConfig(name, norm, 4), shape[0], 7, [0.5] * shape[0], [0.2] * shape[0])
    x = torch.rand(5, *shape)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert bool(running_norms(model)) == (norm == "batch")
    with Probe(model.eval(), head_of(model, x)) as probe:
        logits, embedding = probe(x)
    assert logits.shape == (5, 7)
    assert embedding.shape == (5, 32)
    assert torch.equal(model.features(x), embedding)
    with torch.no_grad():  # one image's answer must not depend on the batch it is in
        torch.testing.assert_close(model(x[:1]), model(x)[:1], atol=1e-5, rtol=1e-4)


def test_paper_network_has_the_paper_size() -> None:
    model = build(ModelConfig("preact_resnet18", "batch", 64), 3, 10, [0.5] * 3, [0.2] * 3)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(11_171_146, rel=1e-3)  # the usual PreAct-ResNet18 for CIFAR


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_torchs_in_either_order_of_memory(order: torch.memory_format) -> None:
    ours, torchs = InstanceNorm(6), nn.InstanceNorm2d(6, affine=True)
    state = {"weight": torch.rand(6), "bias": torch.randn(6)}
    x, grads = torch.randn(4, 6, 5, 3), []
    for layer in (ours, torchs):
        layer.load_state_dict(state)
        given = x.clone().to(memory_format=order).requires_grad_()
        (layer(given) ** 3).sum().backward()
        assert layer is torchs or layer(given).is_contiguous()
        grads.append([given.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(ours(x), torchs(x))
    torch.testing.assert_close(*grads, atol=1e-4, rtol=1e-4)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="preact_resnet18"):
        build(ModelConfig("resnet", "batch", 4), 1, 2, [0.5], [0.5])
    with pytest.raises(UserError, match="batch, layer, instance"):
        build(ModelConfig("small_cnn", "group", 4), 1, 2, [0.5], [0.5])


def test_the_input_is_normalised() -> None:
    model = build(ModelConfig("small_cnn", "batch", 4), 1, 3, [0.3], [0.5]).eval()
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(x), model.network((x - 0.3) / 0.5))


def test_probe_sees_the_embedding_and_inputs_and_goes_away() -> None:
    net = small_net()
    x = torch.rand(3, 1, 28, 28)
    with Probe(net, "8", layers=("1", "4")) as probe:
        logits, embedding = probe(x)
        assert torch.equal(net[8](embedding), logits)
        assert torch.equal(probe.seen.inputs["1"], net[0](x))
    with pytest.raises(RuntimeError), Probe(net, "8", layers=("1",)) as probe:
        probe(torch.rand(3, 2, 28, 28))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_head_of_finds_the_last_linear_layer_or_asks() -> None:
    x = torch.rand(2, 1, 28, 28)
    assert head_of(small_net(), x) == "8"
    net = nn.Sequential(nn.Conv2d(1, 4, 28), nn.Flatten())
    with pytest.raises(UserError, match="penultimate"):
        head_of(net, x)
    with pytest.raises(UserError, match="penultimate"):
        head_of(nn.Sequential(small_net(), nn.Softmax(-1)), x)


def test_a_named_layer_serves_where_the_head_is_a_convolution() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 26), nn.Flatten())
    with Probe(net, None, "1") as probe:
        _, embedding = probe(torch.rand(2, 1, 28, 28))
    assert embedding.shape == (2, 4)
    with pytest.raises(UserError, match="no layer 'x'"), Probe(net, None, "x"):
        pass


def test_statistics_are_what_batchnorm_takes() -> None:
    norm = nn.BatchNorm2d(5, momentum=1.0)
    x = torch.randn(8, 5, 6, 6)
    norm(x)
    mean, variance = channel_statistics(x)
    torch.testing.assert_close(mean, norm.running_mean)
    torch.testing.assert_close(variance * (8 * 36) / (8 * 36 - 1), norm.running_var)
    torch.testing.assert_close(channel_means(x), mean)
    torch.testing.assert_close(channel_means(x[:, :, 0, 0]), x[:, :, 0, 0].mean(0))


def test_gradients_of_the_statistics() -> None:
    torch.manual_seed(0)
    for shape in ((4, 3, 2, 2), (4, 3)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(channel_statistics, x)


def plain_statistics(x: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and the chosen rows' means, one channel and one row at a time."""
    channels = x.transpose(0, 1).flatten(1)
    chosen = [
        sum(w * x[i, c].mean() for i, w in zip(rows.index.tolist(), rows.weights, strict=True))
        for c in range(x.shape[1])
    ]
    return channels.mean(1), channels.var(1, correction=0), torch.stack(chosen)


@pytest.mark.parametrize("case", ["2", "3", "4", "5", "tokens", "last"])
def test_statistics_and_means_of_some_rows(case: str) -> None:
    torch.manual_seed(0)
    shape = (5, 3, *[2, 4, 3][: int(case) - 2]) if case.isdigit() else (5, 3, 4, 2)
    x = torch.randn(shape, dtype=torch.float64) + 1
    if case == "tokens":
        x = x.flatten(2).mT.contiguous().mT
    elif case == "last":
        x = x.to(memory_format=torch.channels_last)
    weights = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    rows = Rows(torch.tensor([4, 1, 2]), weights)
    x.requires_grad_()
    ours, plain = statistics_and_means(x, rows), plain_statistics(x, rows)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(rows.means(x), plain[2])
    torch.testing.assert_close(channel_statistics(x), plain[:2])
    up = [torch.randn(3, dtype=torch.float64) for _ in plain]
    for mine, theirs, given in (
        (ours, plain, up),
        ((rows.means(x),), plain[2:], up[2:]),
        (channel_statistics(x), plain[:2], up[:2]),
    ):
        pairs = (torch.autograd.grad(v, x, given, retain_graph=True)[0] for v in (mine, theirs))
        torch.testing.assert_close(*pairs)


def test_watched_layers() -> None:
    assert watched_layers(small_net(), None) == ("1", "4")
    assert watched_layers(small_net(norm=False), None) == ("0", "2", "6")
    assert watched_layers(small_net(), ["0", "8"]) == ("0", "8")
    with pytest.raises(UserError, match="tar_layers"):
        watched_layers(small_net(), ["none*"])


class Evil:
    """Runs a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


def test_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = ModelConfig("small_cnn", "batch", 4)
    given, model = (build(cfg, 1, 3, [0.5], [0.5]) for _ in range(2))
    save_file(given.state_dict(), "whole.safetensors")
    torch.save({"state_dict": given.network.state_dict()}, "inner.pt")
    for path in ("whole.safetensors", "inner.pt"):
        fresh = build(cfg, 1, 3, [0.5], [0.5])
        load_checkpoint(fresh, path)
        torch.testing.assert_close(fresh.state_dict(), given.state_dict())
    torch.save(Evil(), "evil.pt")
    torch.save({"a": 1}, "other.pt")
    torch.save({"a": torch.ones(1)}, "misfit.pt")
    Path("noise.safetensors").write_bytes(b"noise")
    for path in ("evil.pt", "other.pt", "misfit.pt", "noise.safetensors", "absent.pt"):
        with pytest.raises(UserError, match=r"^model\.checkpoint"):
            load_checkpoint(model, path)
    assert not Path("owned").exists()


def test_a_doubling_convolution_is_one_of_the_upsampled_image() -> None:
    torch.manual_seed(0)
    layer = DoublingConv2d(3, 5).double()
    x = torch.rand(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)
    ours = layer(x)
    torch.testing.assert_close(ours, plain)
    inputs, upstream = (x, layer.weight, layer.bias), torch.rand_like(plain)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(plain, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
