"""Which axes of a layer's input or output are images and channels, told by the layer itself.

Two passes, of two and of three images, show the axis that grows with the batch. The axis of
channels is the layer's own: the first of ``normalized_shape`` for a layer norm, the last axis for a
linear layer, the second for a convolution and the other norms. A subclass that turns its input
round (a layer norm of images, a BatchNorm of tokens) is told by the number of its channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unlearn.engine.predict import evaluating

BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCENORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
BATCHES = (2, 3)


@dataclass(frozen=True)
class Layout:
    """Where images and channels are in a tensor.

    Attributes:
        images: the axis that grows with the batch.
        parts: how many rows of it belong to one image, as with windows of an image.
        channels: the axis of channels.
    """

    images: int = 0
    parts: int = 1
    channels: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """The tensor as (B, C) or (B, C, ...).

        Example:
            >>> Layout(channels=2)(torch.zeros(5, 17, 32)).shape
            torch.Size([5, 32, 17])
        """
        if (self.images, self.parts, self.channels) == (0, 1, 1):
            return x
        rows = x.movedim((self.images, self.channels), (0, -1))
        return rows.reshape(len(rows) // self.parts, -1, rows.shape[-1]).transpose(1, 2)


@dataclass(frozen=True)
class Layouts:
    """The layouts of layers that took part in a pass, by name; others are in neither."""

    inputs: dict[str, Layout] = field(default_factory=dict)
    outputs: dict[str, Layout] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """A layer begins or ends: its name, and the shape of its input or output."""

    name: str
    ends: bool
    shape: tuple[int, ...] | None


def layouts_of(model: nn.Module, images: Tensor) -> Layouts:
    """Layouts in a model in eval mode.

    Args:
        images: (k, C, H, W), from one on.
    """
    with evaluating(model):
        one, two = (_events(model, _some(images, number)) for number in BATCHES)
        return _compared(dict(model.named_modules()), one, two)


def _compared(modules: dict[str, nn.Module], one: list[Event], two: list[Event]) -> Layouts:
    """Layouts from what happened at two sizes of a batch."""
    shapes, found = {(e.name, e.ends): e.shape for e in one}, Layouts()
    for i, event in enumerate(two):
        before = shapes.get((event.name, event.ends))
        if event.shape is None or before is None or len(before) != len(event.shape):
            continue
        axis = _images_axis(before, event.shape)
        if axis is None:
            continue
        channels = _channels(modules, two, i, axis)
        if channels is not None and channels != axis:
            held = found.outputs if event.ends else found.inputs
            held[event.name] = Layout(axis, event.shape[axis] // BATCHES[1], channels)
    return found


def first_tensor(value: object) -> Tensor | None:
    """A tensor, or the first one in a tuple, list or dictionary of arguments or answers."""
    if isinstance(value, Tensor):
        return value
    inner: list[object] = []
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, (tuple, list)):
        inner = list(value)
    for part in inner:  # a generator would not be compiled
        found = first_tensor(part)
        if found is not None:
            return found
    return None


def _some(images: Tensor, number: int) -> Tensor:
    return torch.cat([images] * number)[:number]


def _events(model: nn.Module, images: Tensor) -> list[Event]:
    """What the layers are called with and answer, in their order."""
    events: list[Event] = []
    with _listening(model, events), torch.no_grad():
        model(images)
    return events


@contextmanager
def _listening(model: nn.Module, events: list[Event]) -> Iterator[None]:
    def listen(name: str, ends: bool, value: object) -> None:
        tensor = first_tensor(value)
        events.append(Event(name, ends, None if tensor is None else tuple(tensor.shape)))

    def before(name: str) -> Any:
        return lambda _module, args, kwargs: listen(name, False, (args, kwargs))

    def after(name: str) -> Any:
        return lambda _module, _args, answer: listen(name, True, answer)

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _images_axis(one: tuple[int, ...], two: tuple[int, ...]) -> int | None:
    """The axis that grows as the batch does."""
    small, large = BATCHES
    grown = [i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a * large == b * small]
    return next((i for i in grown if two[i]), None)


def _channels(
    modules: dict[str, nn.Module], events: list[Event], index: int, images: int
) -> int | None:
    """The axis of channels at an event: the layer's own word, else that of one beside it.

    A layer that has no channels of its own (an activation, a block) has those of the first layer
    within it, or at its end of the last one before it, that does and has as many axes. Without
    any, images have theirs second.
    """
    event = events[index]
    assert event.shape is not None
    if axes := _own(modules[event.name], event.ends):
        return _settle(modules[event.name], event.shape, images, *axes)
    within = events[index + 1 :] if not event.ends else []
    inside = [e for e in within if e.name.startswith(f"{event.name}.")]
    for near in [*inside, *events[:index][::-1]]:
        known = _own(modules[near.name], near.ends)
        if known and near.shape is not None and len(near.shape) == len(event.shape):
            return _settle(modules[near.name], near.shape, images, *known)
    return 1 if len(event.shape) in (2, 4) else None


def _own(module: nn.Module, ends: bool) -> tuple[int, int] | None:
    """A layer's number of channels and their axis; None if it does not say."""
    if isinstance(module, (*BATCHNORMS, *INSTANCENORMS)):
        return module.num_features, 1
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, 1
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return module.normalized_shape[0], -len(module.normalized_shape)
    if isinstance(module, CONVOLUTIONS):
        return module.out_channels if ends else module.in_channels, 1
    if isinstance(module, nn.Linear):
        return module.out_features if ends else module.in_features, -1
    return None


def _settle(
    module: nn.Module, shape: tuple[int, ...], images: int, number: int, axis: int
) -> int | None:
    """The axis of ``number`` channels: the usual one, but for a subclass that turns its input."""
    usual = axis % len(shape)
    able = [i for i, size in enumerate(shape) if size == number and i != images]
    if len(able) <= 1:
        return able[0] if able else None
    if usual not in able:
        return able[0]
    if type(module).__module__.startswith("torch.nn.") or _takes(module, number, len(shape), usual):
        return usual
    return next(i for i in able if i != usual)


def _takes(module: nn.Module, number: int, axes: int, axis: int) -> bool:
    """Whether a layer takes an input of unlike sides that has its channels at ``axis``."""
    sides = [2, *range(number + 1, number + axes)]
    sides[axis] = number
    weight = next((t for t in [*module.parameters(), *module.buffers()] if t.numel()), None)
    try:
        with torch.no_grad():
            module(torch.zeros(sides, device=None if weight is None else weight.device))
    except (RuntimeError, ValueError):
        return False
    return True
