"""A stranger's model as the unlearner computes with it, and back to the form in which it came."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from unlearn.engine.fitting import gpu_layout
from unlearn.engine.statistics import wide
from unlearn.errors import UserError
from unlearn.models.base import Classifier

M = TypeVar("M", bound=nn.Module)
# Where torch has the layers whose weights are packed whole numbers.
QUANTISED = re.compile(r"torch\.(ao\.)?nn\.(intrinsic\.)?quantized\b")
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


@dataclass(frozen=True)
class Form:
    """What must be put back into a repaired copy to give it the form of the given model.

    Attributes:
        dtypes: of every parameter, buffer and other tensor of a module, by ``MODULE.NAME``.
        frozen: names of the parameters that shall stay as they are: they did not require
            gradients, while others did.
        still: whether none required gradients, as in a model made ready for inference; then all
            are relearned.
        wrapped: whether the copy stands behind a ``Classifier``.
    """

    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    still: bool = False
    wrapped: bool = False

    def student(self, original: nn.Module) -> nn.Module:
        """A copy to be trained: in train mode, frozen parameters frozen."""
        student = copied(original)
        student.train()
        self._unfreeze(self._inner(student))
        return student

    def restored(self, model: nn.Module) -> nn.Module:
        """The inner network in eval mode, its tensors of their own types again; changes it."""
        network = self._inner(model)
        network.eval()
        self._unfreeze(network)
        if self.still:
            network.requires_grad_(False)
        for name, tensor in tensors_of(network):
            if name in self.dtypes:
                tensor.data = tensor.data.to(self.dtypes[name])
        return network

    def _inner(self, model: nn.Module) -> nn.Module:
        return model.get_submodule("network") if self.wrapped else model

    def _unfreeze(self, network: nn.Module) -> None:
        for name, parameter in network.named_parameters():
            learns = parameter.is_floating_point() or parameter.is_complex()
            parameter.requires_grad_(name not in self.frozen and learns)


def adapted(
    model: nn.Module, normalize: tuple[Sequence[float], Sequence[float]] | None, channels: int
) -> tuple[nn.Module, Form]:
    """A copy in eval mode that takes images in [0, 1], and its form.

    Its numbers are of the default type (see ``plainly``), its parameters require no gradients, and
    ``torch.compile``, ``DataParallel`` and their like are taken off.

    Args:
        normalize: per-channel mean and standard deviation, if the model expects such images.
        channels: of an image.

    Raises:
        UserError: if the model, or ``normalize``, cannot be.
    """
    check_model(model)
    network = unwrapped(copied(_inside(model)))
    check_forwards(network)
    frozen = frozenset(n for n, p in network.named_parameters() if not p.requires_grad)
    still = len(frozen) == len(list(network.parameters()))
    dtypes = {}
    for name, tensor in tensors_of(network):
        if tensor.is_floating_point():
            dtypes[name] = tensor.dtype
            tensor.data = tensor.data.to(torch.get_default_dtype())
    original = network
    if normalize is not None:
        original = _normalising(network, normalize, channels)
    form = Form(dtypes, frozenset() if still else frozen, still, normalize is not None)
    return ready(original), form


def answering_logits(original: nn.Module, form: Form, channels: int) -> tuple[nn.Module, Form]:
    """The copy behind a ``Classifier`` that takes the logits from what it answers."""
    if form.wrapped:
        return original, form
    plain = Classifier(original, [0.0] * channels, [1.0] * channels)
    plain.to(next(original.parameters()).device)
    return ready(plain), replace(form, wrapped=True)


def ready(original: nn.Module) -> nn.Module:
    """Laid out for its device, in eval mode, learning nothing."""
    gpu_layout(original)
    original.eval()  # a model's own train() may answer nothing
    return original.requires_grad_(False)


def _normalising(
    network: nn.Module, normalize: tuple[Sequence[float], Sequence[float]], channels: int
) -> Classifier:
    try:
        mean, std = ([float(v) for v in values] for values in normalize)
    except (TypeError, ValueError) as error:
        raise UserError("normalize", f"{normalize!r} is not (means, deviations)") from error
    if not {len(mean), len(std)} <= {1, channels} or not all(v > 0 for v in std):
        raise UserError(
            "normalize",
            f"{(mean, std)} is not a mean and a deviation above 0 for each of {channels} channels",
        )
    return Classifier(network, mean, std).to(next(network.parameters()).device)


def check_model(model: object) -> None:
    """Refuse what cannot be unlearned from, before it is copied or called.

    Raises:
        UserError: if it is no module, hides its layers, holds no weights, or holds NaN.
    """
    if not isinstance(model, nn.Module):
        raise UserError("model", f"a {type(model).__name__} is no torch.nn.Module")
    for name, module in model.named_modules():
        if QUANTISED.match(type(module).__module__):
            raise UserError(
                "model",
                f"its layer {name!r} is quantised, and whole numbers cannot be relearned; give the "
                "model as it was before",
            )
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        raise UserError(
            "model", "a TorchScript module hides its layers; give the nn.Module it was made from"
        )
    lazy = [n for n, t in [*model.named_parameters(), *model.named_buffers()] if is_lazy(t)]
    if lazy:
        raise UserError("model", f"{lazy[0]} is lazy still; pass a batch of images through it once")
    parameters = list(model.named_parameters())
    if not any(p.is_floating_point() for _, p in parameters):
        raise UserError("model", "it has no parameters, so that nothing can be relearned")
    devices = sorted({str(p.device) for _, p in parameters})
    if len(devices) > 1:
        raise UserError(
            "model", f"it lies on several devices ({', '.join(devices)}); move it to one"
        )
    if devices == ["meta"]:
        raise UserError("model", "it lies on the meta device, which holds no weights")
    for name, parameter in parameters:
        if parameter.is_floating_point() and not bool(wide(parameter.detach()).isfinite().all()):
            raise UserError("model", f"its parameter {name} holds NaN or infinite values")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without ``torch.compile``, ``DataParallel`` and their like, inside it too.

    Changes the modules that hold a wrapped one, or whose ``forward`` is compiled.
    """
    for parent in list(model.modules()):
        forward = vars(parent).get("forward")
        if callable(forward) and hasattr(forward, "_torchdynamo_orig_callable"):  # compiled
            given = inspect.unwrap(forward)
            if getattr(given, "__func__", None) is type(parent).forward:
                del parent.forward
        for name, child in list(parent.named_children()):
            if (inner := _inside(child)) is not child:
                setattr(parent, name, inner)
    return _inside(model)


def _inside(module: nn.Module) -> nn.Module:
    while True:
        compiled = getattr(module, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            module = compiled
        elif isinstance(module, WRAPPERS):
            module = module.module
        else:
            return module


def check_forwards(model: nn.Module) -> None:
    """Refuse a copy in which a function stands for ``forward`` and holds a module of its own.

    Such a function is not copied: it would go on computing with the given model.

    Raises:
        UserError: naming the layer.
    """
    for name, module in model.named_modules():
        for cell in getattr(vars(module).get("forward"), "__closure__", None) or ():
            held = cell.cell_contents
            if isinstance(getattr(held, "__self__", held), nn.Module):
                raise UserError(
                    "model",
                    f"the forward of {name or type(module).__name__!r} was replaced by a function "
                    "that holds a module, of which no copy can be made; give the model without it",
                )


def copied(model: M) -> M:
    """A deep copy; tensors that a pass left behind, with their gradients' graph, are cut off it.

    Raises:
        UserError: if it holds what cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            for tensor in _tensors_in(value):
                if not tensor.is_leaf:
                    memo[id(tensor)] = tensor.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever is among a stranger's attributes
        raise UserError("model", f"it cannot be copied ({error})") from error


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each parameter, buffer and other tensor among a module's attributes once, by its name."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        loose = [(n, v) for n, v in vars(module).items() if isinstance(v, Tensor)]
        for name, tensor in own + loose:
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{prefix}.{name}" if prefix else name, tensor


def _tensors_in(value: object) -> Iterator[Tensor]:
    """Tensors in an attribute, a list or a dictionary; of modules' own ones there are none."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors_in(inner)
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            yield from _tensors_in(inner)


def computing_type(model: nn.Module) -> torch.dtype:
    """In what a model's numbers are computed: float64 if any of its weights is, else float32."""
    double = any(p.dtype == torch.float64 for p in model.parameters())
    return torch.float64 if double else torch.float32


@contextmanager
def plainly(model: object) -> Iterator[None]:
    """Torch as the unlearner needs it, whatever the caller's block says, and back after.

    Gradients are on; inference mode and autocast are off; new numbers are of the model's
    ``computing_type``.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(computing_type(model) if isinstance(model, nn.Module) else before)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.set_default_dtype(before)
