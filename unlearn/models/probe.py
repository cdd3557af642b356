"""Looking inside a classifier: its embedding and the inputs of its layers, without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from unlearn.computing import forward, wide
from unlearn.errors import UserError

NORM_TYPES = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass
class Seen:
    """What one forward pass showed: the embedding and the watched layers' inputs."""

    embedding: Tensor | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)


def head_of(model: nn.Module, images: Tensor) -> str:
    """Name of the last linear layer, whose output must be the model's logits.

    Raises:
        UserError: if the model does not end in a linear layer; name the embedding's layer then.
    """
    last: list[tuple[str, Tensor]] = []
    handles = [
        m.register_forward_hook(lambda _m, _i, out, name=name: last.append((name, out)))
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear)
    ]
    try:
        with torch.no_grad(), evaluating(model):
            logits = model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not last or last[-1][1].shape != logits.shape or not torch.equal(last[-1][1], logits):
        raise UserError(
            "penultimate",
            "the model does not end in a linear layer; name the layer whose output is the "
            "embedding, one of model.named_modules()",
        )
    return last[-1][0]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, each one's own mode restored after."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 500) -> Tensor:
    """Predicted classes (N,) of uint8 images (N, C, H, W), on the CPU.

    The model is in eval mode for it, and the random state is left alone.
    """
    device = next(model.parameters()).device
    with evaluating(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        parts = [
            model(part.to(device, torch.get_default_dtype()) / 255).argmax(-1).cpu()
            for part in x.split(batch_size)
        ]
    return torch.cat(parts)


def flat(features: Tensor) -> Tensor:
    """(B, d, ...) -> (B, d): means over space, as a classifier's pooling would take."""
    return features.flatten(2).mean(2) if features.dim() > 2 else features


class Probe:
    """Hooks on a model that show the embedding and layer inputs of each forward pass.

    A context manager: the hooks are gone after the block, whatever happened in it.

    Args:
        model: any classifier.
        head: the last linear layer (its input is the embedding), or None.
        penultimate: the layer whose output is the embedding; wins over ``head``.
        layers: the layers whose inputs are kept.
    """

    def __init__(
        self,
        model: nn.Module,
        head: str | None,
        penultimate: str | None = None,
        layers: tuple[str, ...] = (),
    ) -> None:
        self.model, self.head, self.penultimate, self.layers = model, head, penultimate, layers
        self.looked = "/".join([str(head), str(penultimate), *layers])
        self.seen = Seen()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Probe:
        modules = dict(self.model.named_modules())
        for name in self.layers:
            self._handles.append(modules[name].register_forward_pre_hook(self._keep(name)))
        if self.penultimate is not None:
            if self.penultimate not in modules:
                raise UserError("penultimate", f"the model has no layer {self.penultimate!r}")
            self._handles.append(modules[self.penultimate].register_forward_hook(self._keep_output))
        elif self.head is not None:
            self._handles.append(modules[self.head].register_forward_pre_hook(self._keep_input))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, classes) and embedding (B, d); inputs are in ``seen``."""
        self.seen.inputs.clear()
        logits = forward(self.model, images, looked=self.looked)
        if self.seen.embedding is None:
            raise UserError("penultimate", f"layer {self.penultimate!r} took no part in the pass")
        embedding, self.seen.embedding = self.seen.embedding, None
        return logits, wide(flat(embedding))

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen.inputs[name] = inputs[0]

        return hook

    def _keep_input(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen.embedding = inputs[0]

    def _keep_output(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.seen.embedding = output


def running_norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers that hold running statistics of the training data."""
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    }


def watched_layers(model: nn.Module, patterns: list[str] | None) -> tuple[str, ...]:
    """Layers for l_tar: those that match a glob; else the normalisation layers; else all the
    convolutions and linear layers.

    Raises:
        UserError: if no layer matches.
    """
    weighted = (nn.Conv1d, nn.Conv2d, nn.Linear)
    named = [(n, m) for n, m in model.named_modules() if n]
    if patterns:
        found = [n for n, _ in named if any(fnmatch(n, p) for p in patterns)]
        if not found:
            raise UserError("inversion.tar_layers", f"no layer of the model matches {patterns}")
        return tuple(found)
    norms = [n for n, m in named if isinstance(m, NORM_TYPES)]
    return tuple(norms or [n for n, m in named if isinstance(m, weighted)])


def channel_means(x: Tensor) -> Tensor:
    """mu over all but the channel axis: (B, C, ...) -> (C,)."""
    x = wide(x)
    return x.flatten(2).mean((0, 2)) if x.dim() > 2 else x.mean(0)


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all but the channel axis: (B, C, ...) -> (C,), (C,)."""
    x = wide(x)
    x = x.flatten(2) if x.dim() > 2 else x[..., None]
    mean, variance = _Moments.apply(x)  # type: ignore[no-untyped-call]
    return mean, variance


class _Moments(torch.autograd.Function):
    """Mean and biased variance of (B, C, n), whose gradient is one product and sum.

    On the CPU several times as fast as ``torch.var_mean``, most of all backwards.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean((0, 2))
        norm = torch.linalg.vector_norm(x - mean[:, None], dim=(0, 2))
        ctx.save_for_backward(x, mean)
        return mean, norm.square() / (x.shape[0] * x.shape[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        number = x.shape[0] * x.shape[2]
        slope = to_variance * (2 / number)
        return torch.addcmul((to_mean / number - slope * mean)[:, None], x, slope[:, None])
