"""Looking inside a classifier: its embedding and the inputs of its layers, without changing it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fnmatch import fnmatch

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unlearn.engine.precision import forward
from unlearn.engine.predict import evaluating, logits_of
from unlearn.engine.statistics import pooled, wide
from unlearn.errors import UserError
from unlearn.models.layout import BATCHNORMS, INSTANCENORMS, Layout, Layouts, first_tensor

NORM_TYPES = (*BATCHNORMS, *INSTANCENORMS, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
SQUASHES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(-1),
    "log-softmax": lambda x: x.log_softmax(-1),
    "sigmoid": lambda x: x.sigmoid(),
}
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclass
class Seen:
    """What one forward pass showed: the embedding and the watched layers' inputs."""

    embedding: Tensor | None = None
    inputs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """What a model ends in.

    Attributes:
        layer: the linear layer whose output is, or becomes, the answer; None without one.
        then: what follows it: nothing, ``softmax``, ``log-softmax`` or ``sigmoid``.
    """

    layer: str | None
    then: str = ""


def end_of(model: nn.Module, images: Tensor) -> Head:
    """How a model makes its answers, in eval mode, to images (k, C, H, W)."""
    made: list[tuple[str | None, Tensor]] = []

    def keep(name: str | None) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: object, out: object) -> None:
            if isinstance(out, Tensor):
                made.append((name, out))

        return hook

    handles = [
        m.register_forward_hook(keep(name if isinstance(m, nn.Linear) else None))
        for name, m in model.named_modules()
        if not any(m.children()) or isinstance(m, nn.Linear)
    ]
    try:
        with torch.no_grad(), evaluating(model):
            answer = logits_of(model(images))
    finally:
        for handle in handles:
            handle.remove()
    linear = [(n, out) for n, out in made if n is not None][-1:]
    if linear and linear[0][1].shape == answer.shape and _same(linear[0][1], answer):
        return Head(linear[0][0])
    alike = [(n, out.reshape(answer.shape)) for n, out in made if out.numel() == answer.numel()]
    for name, squash in SQUASHES.items():
        near = [
            layer
            for layer, out in alike
            if torch.allclose(squash(wide(out)), wide(answer), rtol=1e-3, atol=1e-4)
        ]
        if near:
            return Head(next((layer for layer in reversed(near) if layer), None), name)
    return Head(None, squashed(wide(answer)))


def _same(out: Tensor, answer: Tensor) -> bool:
    """Whether an answer is an output, perhaps in another type."""
    return torch.equal(out.to(answer.dtype), answer) or torch.equal(out, answer.to(out.dtype))


def squashed(answer: Tensor) -> str:
    """What (B, classes) answers are by themselves: probabilities, or their logarithms."""
    for name, p in (("softmax", answer), ("log-softmax", answer.exp())):
        sums = p.sum(-1)
        if bool((p >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            return name
    return ""


def head_of(model: nn.Module, images: Tensor) -> str:
    """Name of the last linear layer, whose output must be the model's logits.

    A log-softmax may follow: of log-probabilities it gives the same again.

    Raises:
        UserError: if the model does not end in a linear layer; name the embedding's layer then.
    """
    head = end_of(model, images)
    if head.layer is None or head.then not in ("", "log-softmax"):
        raise UserError(
            "penultimate",
            "the model does not end in a linear layer; name the layer whose output is the "
            "embedding, one of model.named_modules()",
        )
    return head.layer


class Probe:
    """Hooks on a model that show the embedding and layer inputs of each forward pass.

    A context manager: the hooks are gone after the block, whatever happened in it.

    Args:
        model: any classifier.
        head: the last linear layer (its input is the embedding), or None.
        penultimate: the layer whose output is the embedding; wins over ``head``.
        layers: the layers whose inputs are kept.
        layouts: where images and channels are; what is not told has them first and second.
    """

    def __init__(
        self,
        model: nn.Module,
        head: str | None,
        penultimate: str | None = None,
        layers: tuple[str, ...] = (),
        layouts: Layouts | None = None,
    ) -> None:
        self.model, self.head, self.penultimate, self.layers = model, head, penultimate, layers
        self.layouts = layouts or Layouts()
        self.looked = "/".join([str(head), str(penultimate), *layers])
        self.seen = Seen()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Probe:
        modules = dict(self.model.named_modules())
        for name in self.layers:
            self._before(modules[name], self._keep(name))
        if self.penultimate is not None:
            if self.penultimate not in modules:
                raise UserError("penultimate", f"the model has no layer {self.penultimate!r}")
            self._handles.append(modules[self.penultimate].register_forward_hook(self._keep_output))
        elif self.head is not None:
            self._before(modules[self.head], self._keep_input)
        return self

    def _before(self, module: nn.Module, hook: Callable[..., None]) -> None:
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> logits (B, classes) and embedding (B, d); inputs are in ``seen``, each
        (B, channels) or (B, channels, ...)."""
        self.seen.inputs.clear()
        logits = forward(self.model, images, looked=self.looked)
        if self.seen.embedding is None:
            raise UserError("penultimate", f"layer {self.penultimate!r} took no part in the pass")
        embedding, self.seen.embedding = self.seen.embedding, None
        return logits, wide(pooled(embedding))

    def _keep(self, name: str) -> Callable[..., None]:
        layout = self.layouts.inputs.get(name, Layout())

        def hook(_module: nn.Module, args: object, kwargs: object) -> None:
            if (tensor := first_tensor((args, kwargs))) is not None:
                self.seen.inputs[name] = layout(tensor)

        return hook

    def _keep_input(self, _module: nn.Module, args: object, kwargs: object) -> None:
        if (tensor := first_tensor((args, kwargs))) is not None:
            self.seen.embedding = self.layouts.inputs.get(self.head or "", Layout())(tensor)

    def _keep_output(self, _module: nn.Module, _args: object, answer: object) -> None:
        if (tensor := first_tensor(answer)) is not None:
            self.seen.embedding = self.layouts.outputs.get(self.penultimate or "", Layout())(tensor)


def running_norms(model: nn.Module, part: Collection[str] | None = None) -> dict[str, nn.Module]:
    """The BatchNorm layers that hold running statistics of the training data.

    Args:
        part: the layers that take part in a pass; None: all of them.
    """
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, BATCHNORMS) and m.running_mean is not None
        if part is None or name in part
    }


def freeze_batchnorm(model: nn.Module) -> None:
    """Keep the running statistics as they are; the affine parameters go on learning."""
    for module in model.modules():
        if isinstance(module, BATCHNORMS):
            module.eval()


def watched_layers(
    model: nn.Module, patterns: list[str] | None, part: Collection[str] | None = None
) -> tuple[str, ...]:
    """Layers for l_tar: those that match a glob; else the normalisation layers; else all the
    convolutions and linear layers.

    Args:
        part: the layers that take part in a pass; None: all of them.

    Raises:
        UserError: if no layer matches, or none that takes part.
    """
    named = [(n, m) for n, m in model.named_modules() if n]
    taking = [(n, m) for n, m in named if part is None or n in part]
    if patterns:
        if not any(_matches(n, patterns) for n, _ in named):
            raise UserError("inversion.tar_layers", f"no layer of the model matches {patterns}")
        found = tuple(n for n, _ in taking if _matches(n, patterns))
        if not found:
            raise UserError(
                "inversion.tar_layers",
                f"no layer that matches {patterns} takes part in a pass with channels that can "
                "be told; name normalisation, convolution or linear layers",
            )
        return found
    norms = [n for n, m in taking if isinstance(m, NORM_TYPES)]
    return tuple(norms or [n for n, m in taking if isinstance(m, WEIGHTED)])


def _matches(name: str, patterns: list[str]) -> bool:
    """Whether a layer is meant; of a network behind a ``Classifier`` its own names will do."""
    return any(fnmatch(n, p) for n in (name, name.removeprefix("network.")) for p in patterns)
