"""Looking inside a classifier: its embedding and the inputs of its layers, without changing it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unlearn.engine.precision import forward
from unlearn.engine.predict import evaluating
from unlearn.engine.statistics import pooled, wide
from unlearn.errors import UserError

BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NORM_TYPES = (*BATCHNORMS, nn.GroupNorm, nn.LayerNorm)


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
        return logits, wide(pooled(embedding))

    def _keep(self, name: str):  # type: ignore[no-untyped-def]
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.seen.inputs[name] = inputs[0]

        return hook

    def _keep_input(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen.embedding = inputs[0]

    def _keep_output(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.seen.embedding = output


def running_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The BatchNorm layers that hold running statistics of the training data."""
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, BATCHNORMS) and m.running_mean is not None
    }


def freeze_batchnorm(model: nn.Module) -> None:
    """Keep the running statistics as they are; the affine parameters go on learning."""
    for module in model.modules():
        if isinstance(module, BATCHNORMS):
            module.eval()


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
