"""Models as people have them: wrapped, cast, reparametrised, drawing, answering in many forms."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torchvision.models import GoogLeNet
from torchvision.models.convnext import LayerNorm2d

from tests.helpers import (
    access_to,
    baseline_of,
    by_parts,
    shots_of,
    small_net,
    small_task,
    taught,
    tiny,
)
from unlearn import UserError, forget
from unlearn.baselines.base import BaselineStage
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit
from unlearn.engine.predict import predict
from unlearn.inversion import Inverter, build_generator
from unlearn.models.adapt import copied, plainly
from unlearn.models.untrained import untrained
from unlearn.problem import Interface, Problem
from unlearn.training import TrainingConfig, train

SHOTS, LABELS = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)), [0] * 5
Y = torch.zeros(5, dtype=torch.long)


def net(
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    wrap: Callable[[nn.Module], nn.Module] = lambda layer: layer,
    act: Callable[[], nn.Module] = nn.ReLU,
    stride: int = 2,
    drop: float = 0.0,
) -> nn.Module:
    """Two convolutions and a linear layer; its answers to different images differ."""
    torch.manual_seed(0)
    model = nn.Sequential(
        wrap(nn.Conv2d(1, 6, 3, stride, 1)),
        norm(6),
        act(),
        wrap(nn.Conv2d(6, 8, 3, 2, 1)),
        act(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(drop),
        wrap(nn.Linear(32, 4)),
    )
    return model.eval()


def problem_of(model: nn.Module, interface: Interface | None = None, **more: Any) -> Problem:
    with plainly(model):
        shots = more.get("shots", SHOTS)
        labels = more.get("labels", LABELS)
        return Problem.of(model, shots, labels, None, Augment(0, 0), 0, interface or Interface())


def refused(model: Any, **more: Any) -> str:
    """The one line with which a model is refused at once, before any inversion."""
    with pytest.raises(UserError) as caught:
        problem_of(model, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- reparametrised layers, and networks drawn anew


class NoReset(nn.Module):
    """A stranger's layer: parameters, a constant one among them, and no ``reset_parameters``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.shift


class Partial(nn.Conv2d):
    """A layer whose own ``reset_parameters`` forgets one of its parameters."""

    def __init__(self, *sides: int) -> None:
        super().__init__(*sides)
        self.gain = nn.Parameter(torch.full((1,), 1.5))

    def forward(self, input: Tensor) -> Tensor:
        return self.gain * super().forward(input)


class Kept(nn.Linear):
    """A layer whose reset puts back what it was trained to."""

    def reset_parameters(self) -> None:
        if hasattr(self, "kept"):
            self.weight.copy_(self.kept)
        else:
            super().reset_parameters()

    def keep(self) -> Kept:
        self.kept = self.weight.detach().clone()
        return self


class Spectrum(nn.Module):
    """Complex weights, one for each frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 1, 16, 9, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * self.weight, s=x.shape[-2:])


class Clipped(nn.Module):
    """A parametrisation without a way back."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.clamp(-0.5, 0.5)


def clipped(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Clipped())
    return layer


def linear(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    return lambda layer: wrap(layer) if isinstance(layer, nn.Linear) else layer


REPARAMETRISED: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: net(wrap=nn.utils.weight_norm),
    "spectral_norm": lambda: net(wrap=nn.utils.spectral_norm),
    "parametrizations.weight_norm": lambda: net(wrap=parametrizations.weight_norm),
    "parametrizations.spectral_norm": lambda: net(wrap=parametrizations.spectral_norm),
    "orthogonal": lambda: net(wrap=linear(parametrizations.orthogonal)),
    "cayley": lambda: net(
        wrap=linear(lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"))
    ),
    "no way back": lambda: net(wrap=clipped),
    "pruned": lambda: net(
        wrap=lambda layer: nn.utils.prune.random_unstructured(layer, "weight", 0.3)  # type: ignore[no-untyped-call]
    ),
    "no reset": lambda: net(norm=NoReset),
    "complex": lambda: nn.Sequential(Spectrum(), nn.Flatten(), nn.Linear(256, 4)),
    "partial reset": lambda: nn.Sequential(Partial(1, 4, 3), nn.Flatten(), nn.Linear(784, 4)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("case", REPARAMETRISED)
def test_every_parameter_of_an_untrained_network_is_drawn_anew(case: str) -> None:
    model = REPARAMETRISED[case]()
    with torch.no_grad():
        for parameter in model.parameters():  # as training would leave them: no constant ones
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model(SHOTS).sum().backward()  # leaves derived weights with a graph of their own
    fresh, again = untrained(model, 3), untrained(model, 3)
    for (name, new), old in zip(fresh.named_parameters(), model.parameters(), strict=True):
        assert not (new == old).any(), name
        assert new.isfinite().all()
    with torch.no_grad():
        assert torch.equal(fresh(SHOTS), again(SHOTS))
        assert fresh(SHOTS).isfinite().all()
        assert (fresh(SHOTS) - model.eval()(SHOTS)).abs().max() > 1e-3
        assert fresh(SHOTS).abs().max() < 100
    _, repaired = by_parts(model, SHOTS, Y, "unt")
    assert type(repaired) is type(model)
    assert repaired.state_dict().keys() == model.state_dict().keys()


def test_a_reset_to_the_trained_weights_is_seen() -> None:
    model = nn.Sequential(nn.Flatten(), Kept(256, 4).keep())
    assert not (untrained(model, 0)[1].weight == model[1].weight).any()


def test_complex_parameters_are_relearned() -> None:
    model = nn.Sequential(Spectrum(), nn.Flatten(), nn.Linear(256, 4))
    _, repaired = by_parts(model, SHOTS, Y)
    assert not torch.equal(repaired[0].weight, model[0].weight)
    assert repaired[0].weight.dtype == torch.complex64


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, parametrizations.spectral_norm])
def test_a_spectral_norm_fits_the_new_weights(norm: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Flatten(), norm(nn.Linear(256, 8)), norm(nn.Linear(8, 4))).eval()
    fresh = untrained(model, 0)
    with torch.no_grad():
        fresh(SHOTS)
        sizes = [torch.linalg.matrix_norm(fresh[i].weight, 2) for i in (1, 2)]
    torch.testing.assert_close(torch.stack(sizes), torch.ones(2), rtol=0.05, atol=0.0)


def test_norms_start_anew_and_ties_stay() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(256, 256), nn.Linear(256, 256)
            self.two.weight = self.one.weight
            self.norm, self.head = nn.BatchNorm1d(256), nn.Linear(256, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.two(self.one(x.flatten(1)).relu())))

    model = Tied()
    model(SHOTS)
    fresh = untrained(model, 0)
    assert fresh.two.weight is fresh.one.weight
    assert not (fresh.one.weight == model.one.weight).any()
    assert torch.equal(fresh.norm.running_mean, torch.zeros(256))
    assert torch.equal(fresh.norm.weight, torch.ones(256))
    _, repaired = by_parts(model, SHOTS, Y, "unt", epochs=2)
    assert repaired.two.weight is repaired.one.weight
    assert not torch.equal(repaired.one.weight, model.one.weight)


def test_unt_says_so_where_drawing_parameters_changes_nothing() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.flat = nn.Parameter(torch.ones(1)), nn.Flatten()
            self.register_buffer("weight", torch.randn(4, 256))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.flat(x), self.weight) + 0 * self.spare  # type: ignore[arg-type]

    with pytest.raises(UserError, match=r"^intention: unt"):
        by_parts(Fixed(), SHOTS, Y, "unt", Interface("flat"))


# --- answers


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


class Answering(nn.Module):
    """A network whose answer is wrapped: ``form(logits, training)``."""

    def __init__(self, form: Callable[[Tensor, bool], Any]) -> None:
        super().__init__()
        self.net, self.form = net(), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.net(x), self.training)


TAKEN: dict[str, Callable[[Tensor, bool], Any]] = {
    "an object": lambda logits, _: Answer(logits),
    "a dictionary": lambda logits, _: {"logits": logits, "loss": None},
    "a tuple of one": lambda logits, _: (logits,),
    "an object in train mode": lambda logits, training: Answer(logits) if training else logits,
    "log-probabilities": lambda logits, _: logits.log_softmax(-1),
    "bfloat16": lambda logits, _: logits.bfloat16(),
}
REFUSED: dict[str, tuple[Callable[[Tensor, bool], Any], str]] = {
    "a tuple": (lambda logits, _: (logits, logits), "a tuple of 2"),
    "a tuple in train mode": (lambda x, training: (x, x) if training else x, "a tuple of 2"),
    "nothing": (lambda logits, _: None, "a NoneType"),
    "tokens": (lambda logits, _: logits[:, None], r"\(10?3?, 1, 4\)"),
    "one class": (lambda logits, _: logits[:, :1], "at least two classes"),
    "other classes in train mode": (lambda x, training: x[:, :2] if training else x, "2 in train"),
    "probabilities": (lambda logits, _: logits.softmax(-1), "ends in a softmax"),
    "probabilities in eval mode": (lambda x, t: x if t else x.softmax(-1), "ends in a softmax"),
    "probabilities in train mode": (lambda x, t: x.softmax(-1) if t else x, "ends in a softmax"),
    "sigmoids": (lambda logits, _: logits.sigmoid(), "ends in a sigmoid"),
    "NaN": (lambda logits, _: logits * torch.nan, "NaN"),
    "complex numbers": (lambda logits, _: logits.to(torch.complex64), "logits are floats"),
    "whole numbers": (lambda logits, _: logits.long(), "answers torch.int64"),
    "no gradient": (lambda logits, _: logits.data, "in eval mode its answers have no gradient"),
    "no gradient in train mode": (lambda x, t: x.detach() if t else x, "in train mode its answers"),
    "an error in train mode": (lambda x, t: x[:, 9, 9] if t else x, "in train mode it cannot take"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_logits_are_taken_from(case: str) -> None:
    model = Answering(TAKEN[case])
    _, repaired = by_parts(model, SHOTS, Y)
    with torch.no_grad():
        logits = problem_of(model).original(SHOTS)
    close = {"rtol": 0.0, "atol": 1e-2 if case == "bfloat16" else 1e-6}
    torch.testing.assert_close(logits.float().softmax(-1), model.net(SHOTS).softmax(-1), **close)
    assert type(repaired) is Answering
    assert not torch.equal(repaired.net[0].weight, model.net[0].weight)
    assert repaired.state_dict().keys() == model.state_dict().keys()
    images = (SHOTS * 255).to(torch.uint8)
    if case not in ("log-probabilities", "bfloat16"):
        assert torch.equal(predict(model, images), predict(model.net, images))


@pytest.mark.parametrize("case", REFUSED)
def test_other_answers_are_refused_at_once(case: str) -> None:
    form, words = REFUSED[case]
    message = refused(Answering(form))
    assert message.startswith("model: ")
    if case != "tokens":
        assert words in message


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_a_forward_without_gradients_is_refused(guard: Callable[[], Any]) -> None:
    class Guarded(Answering):
        @guard()
        def forward(self, x: Tensor) -> Any:
            return self.net(x)

    assert "no gradient with respect to its images" in refused(Guarded(lambda x, _: x))


def test_a_model_may_write_over_its_images() -> None:
    class Writing(Answering):
        def forward(self, x: Tensor) -> Any:
            return self.net(x.sub_(0.5).div_(0.25))

    model, shots = Writing(lambda x, _: x), SHOTS.clone()
    problem, repaired = by_parts(model, shots, Y)
    assert torch.equal(shots, SHOTS)
    assert torch.equal(problem.shots, SHOTS)
    plain = nn.Sequential(nn.BatchNorm2d(1, affine=False, eps=1e-12), net()).eval()
    plain[0].running_mean.fill_(0.5)
    plain[0].running_var.fill_(0.25**2)
    with torch.no_grad():
        torch.testing.assert_close(problem_of(model).original(SHOTS.clone()), plain(SHOTS))
    assert type(repaired) is Writing


@pytest.mark.parametrize("last", [nn.Softmax(-1), nn.Sigmoid(), nn.Softmax2d()])
def test_a_last_layer_that_squashes_is_named(last: nn.Module) -> None:
    if isinstance(last, nn.Softmax2d):
        head = nn.Sequential(nn.Conv2d(1, 4, 16), last, nn.Flatten())
        assert "ends in a softmax" in refused(head)
    else:
        assert "give the model without it" in refused(nn.Sequential(net(), last))


def test_auxiliary_heads_are_left_alone() -> None:
    torch.manual_seed(0)
    model = GoogLeNet(num_classes=4, aux_logits=True, init_weights=False)
    shots = torch.rand(3, 3, 32, 32)
    problem, repaired = by_parts(model, shots, Y[:3])
    assert problem.layouts is not None
    assert not any("aux" in name for name in problem.layouts.inputs)
    for name, old in model.aux1.named_parameters():
        assert torch.equal(repaired.aux1.get_parameter(name), old)
    assert not torch.equal(repaired.fc.weight, model.fc.weight)


class Idle(nn.Module):
    """Norms that take no part in a pass in eval mode."""

    def __init__(self, idle: nn.Module) -> None:
        super().__init__()
        self.net, self.idle = net(), idle

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return Answer(logits, self.idle(x).mean()) if self.training else logits


def test_layers_without_a_part_are_not_watched() -> None:
    problem = problem_of(Idle(nn.BatchNorm2d(1)))
    cfg = tiny(batch_size=12).inversion
    module = Inverter(cfg, build_generator(cfg, 4, problem.shape, 0), problem)
    assert module.bn_layers == module.tar_layers
    assert module.bn_layers == ("network.net.1",)
    with module.probe:
        assert {"tar", "bn"} <= set(module.losses(0))
    for named, words in (
        (["idle"], "takes part in a pass"),
        (["nowhere"], "no layer of the model matches"),
    ):
        with pytest.raises(UserError, match=words):
            Inverter(
                replace(cfg, tar_layers=named), build_generator(cfg, 4, problem.shape, 0), problem
            )
    chosen = Inverter(
        replace(cfg, tar_layers=["idle", "net.3"]),
        build_generator(cfg, 4, problem.shape, 0),
        problem,
    )
    assert chosen.tar_layers == ("network.net.3",)


# --- axes


class TokenNorm(nn.BatchNorm1d):
    """BatchNorm of tokens (B, N, C)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


class ViT(nn.Module):
    """Tokens (B, N, D), or (N, B, D), through one block; the first one is classified."""

    def __init__(self, norm: Callable[[int], nn.Module], width: int = 12, first: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 24, dropout=0.0, batch_first=first)
        self.norm, self.head, self.first = norm(width), nn.Linear(width, 4), first

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        if not self.first:
            tokens = tokens.transpose(0, 1)
        tokens = self.norm(self.block(tokens))
        return self.head(tokens[:, 0] if self.first else tokens[0])


class Signal(nn.Module):
    """Rows of pixels as a signal (B, C, L)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(16, 6, 3), norm, nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x[:, 0])).mean(2))


def turned(axis: int) -> Callable[[Tensor], Tensor]:
    """Means over all axes but one."""
    return lambda x: x.mean([i for i in range(x.dim()) if i != axis % x.dim()])


# A model, one of its layers, and the means of that layer's channels.
AXES: dict[str, tuple[Callable[[], nn.Module], str, Callable[[Tensor], Tensor], int]] = {
    "LayerNorm of tokens": (lambda: ViT(nn.LayerNorm), "norm", turned(2), 12),
    "as many tokens as channels": (lambda: ViT(nn.LayerNorm, 17 + 1), "norm", turned(2), 18),
    "tokens first": (lambda: ViT(nn.LayerNorm, 12, False), "norm", turned(2), 12),
    "Linear on tokens": (lambda: ViT(nn.LayerNorm), "block.linear1", turned(2), 12),
    "a whole block": (lambda: ViT(nn.LayerNorm), "block", turned(2), 12),
    "BatchNorm of tokens": (lambda: ViT(TokenNorm), "norm", turned(2), 12),
    "RMSNorm of tokens": (lambda: ViT(nn.RMSNorm), "norm", turned(2), 12),
    "LayerNorm of images": (lambda: net(LayerNorm2d), "1", turned(1), 6),
    "LayerNorm of square images": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), LayerNorm2d(8), nn.Flatten(), nn.Linear(512, 4)
        ),
        "1",
        turned(1),
        8,
    ),
    "LayerNorm over an image": (lambda: net(lambda c: nn.LayerNorm([c, 8, 8])), "1", turned(1), 6),
    "GroupNorm": (lambda: net(lambda c: nn.GroupNorm(2, c)), "1", turned(1), 6),
    "an activation": (lambda: net(), "2", turned(1), 6),
    "BatchNorm of a signal": (lambda: Signal(nn.BatchNorm1d(6)), "norm", turned(1), 6),
    "GroupNorm of a signal": (lambda: Signal(nn.GroupNorm(2, 6)), "norm", turned(1), 6),
    "BatchNorm of images": (lambda: net(), "1", turned(1), 6),
}


def test_a_prior_of_the_shots_stands_in_for_batchnorm_that_a_model_lacks() -> None:
    model = small_net(norm=False)
    shots, labels = shots_of(1, 28, 28)
    problem = Problem.of(model, shots, labels, None, Augment(0, 0.0), 0, Interface())
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    cfg = tiny(batch_size=12).inversion

    def inverter(**settings: Any) -> Inverter:
        own = replace(cfg, **settings)
        return Inverter(own, build_generator(own, 4, problem.shape, 0), problem)

    assert "bn" not in inverter().losses(0)
    module = inverter(prior="shots")
    assert list(module.bn_layers) == layers
    x, found = shots, dict[str, Tensor]()
    for name, layer in model.named_children():
        found[name] = x
        x = layer(x)
    for name, mean, variance in zip(layers, *module.running, strict=True):
        seen = found[name].transpose(0, 1).flatten(1)
        torch.testing.assert_close(mean, seen.mean(1))
        torch.testing.assert_close(variance, seen.var(1, correction=0), rtol=1e-4, atol=1e-6)
    parts = module.losses(0)
    assert float(parts["bn"].detach()) > 0
    assert "bn" not in inverter(prior="shots", weights=replace(cfg.weights, bn=0.0)).losses(0)


@pytest.mark.parametrize("case", AXES)
def test_a_layer_says_which_axis_its_channels_are(case: str) -> None:
    make, layer, means, channels = AXES[case]
    model, seen = make().eval(), []
    model.get_submodule(layer).register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    problem = problem_of(model)
    cfg = tiny(batch_size=12, tar_copies=1).inversion
    cfg = replace(cfg, tar_layers=[layer])
    module = Inverter(cfg, build_generator(cfg, 4, problem.shape, 0), problem)
    assert module.targets[0][0].shape == (channels,)
    seen.clear()
    with torch.no_grad():
        model(SHOTS)
    torch.testing.assert_close(module.targets[0][0], means(seen[0]))
    with module.probe:
        assert module.losses(0)["loss"].isfinite()


def test_l_bn_takes_the_statistics_that_a_batchnorm_of_tokens_holds() -> None:
    model = ViT(lambda width: TokenNorm(width, momentum=1.0)).train()
    images = torch.rand(12, 1, 16, 16)
    model(images)
    problem = problem_of(model)
    cfg = tiny(batch_size=12).inversion
    module = Inverter(cfg, build_generator(cfg, 4, problem.shape, 0), problem)
    assert module.bn_layers == ("norm",)
    with module.probe as probe, torch.no_grad():
        probe(images)
        seen = probe.seen.inputs["norm"]
    assert seen.shape == (12, 12, 17)
    torch.testing.assert_close(seen.mean((0, 2)), model.norm.running_mean)


@pytest.mark.parametrize("first", [True, False])
def test_the_embedding_of_tokens_is_a_vector(first: bool) -> None:
    model = ViT(nn.LayerNorm, 12, first).eval()
    seen: list[Tensor] = []
    model.norm.register_forward_hook(lambda _m, _a, out: seen.append(out))
    problem = problem_of(model, Interface("norm"))
    with problem.probe() as probe, torch.no_grad():
        embedding = probe(SHOTS)[1]
    assert embedding.shape == (5, 12)
    torch.testing.assert_close(embedding, seen[-1].mean(1 if first else 0))
    assert problem_of(model).head == "head"


def test_an_embedding_whose_axes_nobody_tells_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fold, self.last = nn.Unflatten(1, (16, 16)), nn.Flatten()
            self.weight = nn.Parameter(torch.randn(4, 256))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.last(self.fold(x.flatten(1))), self.weight)

    assert "which axis its channels are" in refused(Odd(), interface=Interface("fold"))
    assert problem_of(Odd(), Interface("last")).penultimate == "last"


# --- types, wrappers, modes

FLOAT8 = torch.float8_e4m3fn


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("wrap", [lambda layer: layer, nn.utils.weight_norm])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, FLOAT8])
def test_the_result_has_the_models_own_types(
    dtype: torch.dtype, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    model = net(wrap=wrap).to(dtype)
    model[1].float()  # norms are often left in float32
    before = torch.get_default_dtype()
    problem, repaired = by_parts(model, SHOTS.to(dtype), Y)
    assert problem.shots.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    given = model.state_dict()
    assert {k: v.dtype for k, v in repaired.state_dict().items()} == {
        k: v.dtype for k, v in given.items()
    }
    if dtype != FLOAT8:  # one epoch moves less than its rounding
        assert not torch.equal(repaired.state_dict()["8.bias"], given["8.bias"])
    assert torch.get_default_dtype() == before
    copy.deepcopy(repaired)


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
def test_the_callers_default_type_does_not_matter(default: torch.dtype) -> None:
    model = net()
    _, plain = by_parts(model, SHOTS, Y)
    torch.set_default_dtype(default)
    try:
        _, other = by_parts(model, SHOTS, Y)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(other.state_dict(), plain.state_dict(), rtol=0, atol=0)


def compiled_inside() -> nn.Module:
    model = Answering(lambda logits, _: logits)
    model.net = torch.compile(model.net, backend="eager")  # type: ignore[assignment]
    return model


def compiled_forward() -> nn.Module:
    model = net()
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return model


def compiled_in_place() -> nn.Module:
    model = net()
    model.compile(backend="eager")
    return model


WRAPPERS: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: torch.compile(net(), backend="eager"),  # type: ignore[return-value]
    "compiled inside": compiled_inside,
    "compiled in place": compiled_in_place,
    "compiled forward": compiled_forward,
    "DataParallel": lambda: nn.DataParallel(net()),
    "both": lambda: nn.DataParallel(torch.compile(net(), backend="eager")),  # type: ignore[arg-type]
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(net()),
}


@pytest.mark.parametrize("case", WRAPPERS)
def test_wrappers_are_taken_off(case: str) -> None:
    model = WRAPPERS[case]()
    with torch.no_grad():
        model(SHOTS)
    _, repaired = by_parts(model, SHOTS, Y)
    _, plain = by_parts(net(), SHOTS, Y)
    inner = repaired.net if case == "compiled inside" else repaired
    assert type(inner) is nn.Sequential
    torch.testing.assert_close(inner.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert WRAPPERS[case]().state_dict().keys() == model.state_dict().keys()


def test_within_the_callers_modes() -> None:
    model = net()
    _, plain = by_parts(model, SHOTS, Y)
    with torch.inference_mode():
        made = net()
        shots = SHOTS.clone()
        _, inference = by_parts(made, shots, Y)
    with torch.no_grad(), torch.autocast("cpu"):
        _, other = by_parts(model, SHOTS, Y)
    for repaired in (inference, other):
        torch.testing.assert_close(repaired.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert not any(p.is_inference() for p in inference.parameters())


def test_frozen_parameters_stay_frozen() -> None:
    model = net()
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(False)
    _, repaired = by_parts(model, SHOTS, Y, epochs=2, batchnorm="train")
    for (name, new), old in zip(repaired.named_parameters(), model.parameters(), strict=True):
        assert new.requires_grad == old.requires_grad
        assert torch.equal(new, old) != old.requires_grad, name
    assert problem_of(model).key != problem_of(net()).key


def test_a_model_made_ready_for_inference_is_relearned_as_a_whole() -> None:
    model = net()
    _, plain = by_parts(model, SHOTS, Y)
    _, repaired = by_parts(model.requires_grad_(False), SHOTS, Y)
    torch.testing.assert_close(repaired.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert not any(p.requires_grad for p in repaired.parameters())
    assert all(p.requires_grad for p in plain.parameters())


def test_a_copy_keeps_what_a_pass_left_behind() -> None:
    class Caching(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            self.last = {"seen": [super().forward(input.flatten(1))]}
            return self.last["seen"][0]

    model = Caching(256, 4)
    model(SHOTS)
    twin = copied(model)
    assert torch.equal(twin.last["seen"][0], model.last["seen"][0])
    assert not twin.last["seen"][0].requires_grad
    assert model.last["seen"][0].requires_grad
    by_parts(model, SHOTS, Y)


def unusable() -> dict[str, tuple[Any, str]]:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    nan = net()
    with torch.no_grad():
        nan[0].weight[0, 0, 0, 0] = torch.nan
    spread = net()
    spread[0].to("meta")
    quantised = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})
    replaced = net()
    before = replaced[3].forward
    replaced[3].forward = lambda x: before(x) * 2
    return {
        "a function": (lambda x: x, "a function is no torch.nn.Module"),
        "a state dict": (net().state_dict(), "is no torch.nn.Module"),
        "no parameters": (nn.Flatten(), "no parameters"),
        "lazy layers": (lazy, "1.weight is lazy"),
        "NaN": (nan, "its parameter 0.weight holds NaN"),
        "several devices": (spread, "several devices (cpu, meta)"),
        "no weights": (net().to("meta"), "meta device"),
        "quantised": (quantised, "its layer '8' is quantised"),
        "replaced forward": (replaced, "the forward of '3' was replaced by a function"),
        "TorchScript": (torch.jit.script(net()), "TorchScript"),
        "no linear layer": (nn.Sequential(nn.Conv2d(1, 4, 16), nn.Flatten()), "penultimate: "),
        "other channels": (nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten()), "in eval mode it"),
    }


@pytest.mark.filterwarnings("ignore:.*quantization is deprecated:DeprecationWarning")
@pytest.mark.parametrize("case", unusable())
def test_what_is_no_usable_model_is_said_in_one_line(case: str) -> None:
    model, words = unusable()[case]
    assert words in refused(model)


# --- shots and labels


def test_shots_and_labels_in_other_forms() -> None:
    plain = problem_of(net()).key
    for shots in (SHOTS.numpy(), list(SHOTS), SHOTS.tolist(), SHOTS.double(), SHOTS.numpy()[::1]):
        assert problem_of(net(), shots=shots).key == plain
    for shots in (SHOTS.numpy().astype(">f4"), SHOTS.to_sparse()):
        assert problem_of(net(), shots=shots).key == plain
    assert problem_of(net(), shots=SHOTS.to(torch.float8_e4m3fn)).shots.dtype == torch.float32
    turned = SHOTS.numpy()[:, :, ::-1]
    torch.testing.assert_close(problem_of(net(), shots=turned).shots, SHOTS.flip(2))
    for labels in (LABELS, tuple(LABELS), np.zeros(5, dtype=np.int64), Y.to(torch.uint8)):
        assert problem_of(net(), labels=labels).target == 0
    for shots, words in (
        ((SHOTS * 255).to(torch.uint8), "torch.uint8; give shots / 255.0"),
        (SHOTS * 255, r"these are in ["),
        (SHOTS * torch.nan, "NaN"),
        (SHOTS.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy(), "shots.permute(0, 3, 1, 2)"),
        ("a file", "shots: "),
        (SHOTS.to("meta"), "meta device"),
        ([SHOTS[0], SHOTS[0, :, :8]], "shots: "),
    ):
        assert words in refused(net(), shots=shots)
    for labels, words in (
        ([0.0] * 5, "whole numbers, not torch.float"),
        ([True] * 5, "whole numbers, not torch.bool"),
        ([0] * 4, "is not one label for each shot"),
        (["cat"] * 5, "labels: "),
        ([0, 1, 0, 1, 4], "4 is not one of the model's 4 classes"),
        (0, "is not one label for each shot"),
    ):
        assert words in refused(net(), labels=labels)


@pytest.mark.parametrize("normalize", [([0.5], [0.0]), ([0.1, 0.2], [1, 1]), (0.5, 0.5), "mean"])
def test_a_normalisation_that_cannot_be(normalize: Any) -> None:
    assert refused(net(), interface=Interface(None, normalize)).startswith("normalize: ")


def test_labels_that_the_model_does_not_answer_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = net()
    with torch.no_grad():
        model[8].bias.copy_(torch.tensor([0.0, 0.0, 90.0, 0.0]))
    for label, lines in ((2, 0), (1, 1)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "unlearn"):
            problem_of(model, labels=[label] * 5).warn()
        said = [r.getMessage() for r in caplog.records]
        assert len(said) == lines
        assert all("answers 1 on 0 of the 5 shots" in s and "2 on 5" in s for s in said)
    with caplog.at_level(logging.WARNING, "unlearn"):
        caplog.clear()
        problem_of(Answering(lambda x, _: x.log_softmax(-1)), labels=[0] * 5).warn()
    assert "log-softmax" in caplog.text


# --- randomness within a model


class Depth(nn.Module):
    """Stochastic depth that draws from whichever source."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.layer, self.source = nn.Conv2d(6, 6, 3, 1, 1), source

    def forward(self, x: Tensor) -> Tensor:
        draws: dict[str, Callable[[], float]] = {
            "torch": lambda: float(torch.rand(())),
            "python": random.random,
            "numpy": np.random.rand,
        }
        return x if self.training and draws[self.source]() < 0.5 else x + self.layer(x)


class Always(nn.Dropout):
    """Dropout in eval mode too."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, 0.3, True)


DRAWING: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: net(drop=0.5),
    "RReLU": lambda: net(act=nn.RReLU),
    "dropout always": lambda: nn.Sequential(*net()[:7], Always(), net()[8]),
    **{
        f"depth by {source}": (lambda source=source: net(lambda _: Depth(source)))  # type: ignore[misc]
        for source in ("torch", "python", "numpy")
    },
}


def disturb(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


@pytest.mark.parametrize("case", DRAWING)
def test_a_model_that_draws_gives_the_same_for_the_same_seed(case: str) -> None:
    model, states = DRAWING[case](), []
    for number in (1, 2):
        disturb(number)
        expected = torch.rand(3), random.random(), np.random.rand()
        disturb(number)
        problem, repaired = by_parts(model, SHOTS, Y, epochs=2)
        after = torch.rand(3), random.random(), np.random.rand()
        assert torch.equal(after[0], expected[0])
        assert after[1:] == expected[1:]
        states.append((repaired.state_dict(), problem.key))
    torch.testing.assert_close(states[0][0], states[1][0], rtol=0, atol=0)
    assert states[0][1] == states[1][1]


def test_dropout_and_the_seed_of_a_whole_call(tmp_path: Path) -> None:
    model = taught(small_net(), 1, 28, 28)
    model.insert(7, nn.Dropout(0.3))  # type: ignore[operator]
    results = []
    for number in (1, 2):
        shots, labels = shots_of(1, 28, 28)
        disturb(number)
        results.append(forget(model, shots, labels, settings=tiny()))
    one, two = (r.model.state_dict() for r in results)
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_training_and_baselines_of_a_model_that_draws() -> None:
    task = small_task(40)
    cfg = TrainingConfig(1, 16, 0.05, 0.9, 0.0, "constant", 0)
    access = access_to(task)
    access.original.network.insert(13, nn.Dropout(0.5))
    access.original.eval()

    def again() -> nn.Module:
        return copy.deepcopy(access.original).requires_grad_(True)

    for name in ("incompetent", "neutralized", "oracle"):
        baseline, states = baseline_of(name, "scale=demo"), []
        for number in (1, 2):
            disturb(number)
            fresh = replace(access, fresh=again)
            states.append(BaselineStage(baseline, {}).make(fresh)[0])
        torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    states = []
    for number in (1, 2):
        model = again()
        disturb(number)
        train(cfg, model, task.train, Augment(0, 0), torch.device("cpu"), Fit())
        states.append(model.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


# --- what the store's key says of a model


class Scaled(nn.Module):
    """A network with a number that its state dict does not hold."""

    def __init__(self, factor: float, saved: bool) -> None:
        super().__init__()
        self.net = net()
        if saved:
            self.register_buffer("factor", torch.tensor(factor), persistent=False)
        else:
            self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.factor)


def momentum(value: float) -> nn.Module:
    return net(lambda channels: nn.BatchNorm2d(channels, momentum=value))


# Models of equal weights that compute other things.
OTHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "activation": (net, lambda: net(act=lambda: nn.LeakyReLU(0.01))),
    "bounded activation": (net, lambda: net(act=nn.ReLU6)),
    "eps": (net, lambda: net(lambda channels: nn.BatchNorm2d(channels, eps=1e-4))),
    "stride": (net, lambda: net(stride=1)),
    "dropout": (net, lambda: net(drop=0.1)),
    "momentum": (net, lambda: momentum(0.2)),
    "unsaved buffer": (lambda: Scaled(1.0, True), lambda: Scaled(1.01, True)),
    "attribute": (lambda: Scaled(1.0, False), lambda: Scaled(1.01, False)),
    "train mode alone": (
        lambda: Answering(lambda x, training: x),
        lambda: Answering(lambda x, training: 1.1 * x if training else x),
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_key_covers_what_a_model_computes(case: str) -> None:
    one, other = (make() for make in OTHERS[case])
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    keys = [problem_of(model).key for model in (one, other)]
    assert keys[0]["model"] == keys[1]["model"]
    assert keys[0]["computes"] != keys[1]["computes"]


@pytest.mark.parametrize("make", [net, lambda: ViT(nn.LayerNorm), lambda: net(drop=0.5)])
def test_the_key_is_the_same_for_the_same_call(make: Callable[[], nn.Module]) -> None:
    keys = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        disturb(threads)
        keys.append(problem_of(make()).key)
        assert torch.get_num_threads() == threads
    assert keys[0] == keys[1] == keys[2]


def test_the_key_tells_a_layers_input_from_its_output() -> None:
    keys = [problem_of(net(), Interface(name)).key["embedding"] for name in (None, "8", "7")]
    assert len({str(key) for key in keys}) == 3


def test_a_layer_with_extra_state() -> None:
    class Extra(nn.Linear):
        step = 3

        def get_extra_state(self) -> dict[str, int]:
            return {"step": self.step}

        def set_extra_state(self, state: dict[str, int]) -> None:
            self.step = state["step"]

    model = nn.Sequential(nn.Flatten(), Extra(256, 4))
    before = problem_of(model).key["model"]
    model[1].step = 5
    problem, repaired = by_parts(model, SHOTS, Y)
    assert repaired[1].step == 5
    assert problem.key["model"] != before


def test_a_layer_that_knows_float32_alone_has_a_key_too() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.eye(x.shape[-1], dtype=torch.float32)

    one = nn.Sequential(Own(), nn.Flatten(), nn.Linear(256, 4))
    other = nn.Sequential(Own(), nn.Flatten(), nn.ReLU(), *copy.deepcopy(one[2:]))
    other[3].bias.data += 0.5
    keys = [problem_of(model).key["computes"] for model in (one, copy.deepcopy(one), other)]
    assert keys[0] == keys[1] != keys[2]


def test_equal_weights_of_another_forward_pass_in_one_store(tmp_path: Path) -> None:
    one = taught(small_net(), 1, 28, 28)
    other = copy.deepcopy(one)
    other[2] = nn.LeakyReLU(0.3)  # type: ignore[index]
    shots, labels = shots_of(1, 28, 28)
    forget(one, shots, labels, settings=tiny(), store=tmp_path)
    stored = forget(other, shots, labels, settings=tiny(), store=tmp_path)
    fresh = forget(other, shots, labels, settings=tiny())
    torch.testing.assert_close(stored.model.state_dict(), fresh.model.state_dict(), rtol=0, atol=0)
    assert len(list(tmp_path.glob("inversion/*/tensors.safetensors"))) == 2
