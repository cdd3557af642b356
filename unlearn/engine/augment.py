"""Random augmentations of whole batches, on the batch's device, another draw for every image.

Each ``apply`` function is deterministic and equals torchvision's per-image result; ``Augment``
draws the parameters. Images are (B, C, H, W) in [0, 1] and stay differentiable; ``Augment`` takes
uint8 ones too, which it crops as they are: a quarter of the bytes to move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def apply_crop(x: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Zero-pad by ``padding`` and cut (H, W) again at ``top``, ``left`` (B,) in [0, 2 padding]."""
    if x.requires_grad:
        return cast(Tensor, _Crop.apply(x, top, left, padding))  # type: ignore[no-untyped-call]
    b, c, h, w = x.shape
    padded = F.pad(x, (padding,) * 4)
    rows = top[:, None] + torch.arange(h, device=x.device)
    # Whole rows at a time.
    runs = padded.flatten().unfold(0, w, 1)
    planes = torch.arange(b * c, device=x.device).view(b, c, 1) * padded[0, 0].numel()
    starts = planes + (rows * padded.shape[-1] + left[:, None])[:, None]
    return runs.index_select(0, starts.flatten()).view(b, c, h, w)


class _Crop(torch.autograd.Function):
    """A crop moves the image; its gradient is moved back, which is a crop too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(top, left)
        ctx.padding = padding
        return apply_crop(x.detach(), top, left, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        top, left = (2 * ctx.padding - offset for offset in ctx.saved_tensors)
        return apply_crop(gradient, top, left, ctx.padding), None, None, None


def apply_rotation(x: Tensor, degrees: Tensor, flip: Tensor | None = None) -> Tensor:
    """Rotate counter-clockwise about the centre, bilinear, black outside. ``degrees`` is (B,).

    Where ``flip`` (B,) is true the result is mirrored left-right, at no cost of its own.
    """
    h, w = x.shape[-2:]
    angle = torch.deg2rad(degrees).to(x.dtype)[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    # Where each pixel comes from, in grid units: -1 to 1 from edge to edge.
    across = (2 * torch.arange(w, dtype=x.dtype, device=x.device) + 1) / w - 1
    if flip is not None:
        across = torch.where(flip[:, None, None], -across, across)
    down = ((2 * torch.arange(h, dtype=x.dtype, device=x.device) + 1) / h - 1)[:, None]
    # In pixels the inverse map is a plain rotation; grid units are scaled by the image's sides.
    grid = x.new_empty(len(x), 2, h, w)
    torch.add(cos * across, (-sin * h / w) * down, out=grid[:, 0])
    torch.add((sin * w / h) * across, cos * down, out=grid[:, 1])
    grid = grid.permute(0, 2, 3, 1)
    if x.requires_grad and x.device.type != "cpu":
        mirror = torch.ones_like(cos) if flip is None else 1 - 2 * flip.to(x.dtype)[:, None, None]
        return cast(Tensor, _Rotation.apply(x, grid, cos, sin, mirror))  # type: ignore[no-untyped-call]
    return _bilinear(x, grid)


def _bilinear(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class _Rotation(torch.autograd.Function):
    """Bilinear sampling on a rotated grid, whose gradient is the same every time.

    A GPU adds up torch's own in whichever order it comes. Here each pixel of the image fetches what
    it was given to: the nine pixels about the place to which it was rotated.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, grid: Tensor, cos: Tensor, sin: Tensor, mirror: Tensor
    ) -> Tensor:
        ctx.save_for_backward(cos, sin, mirror)
        return _bilinear(x, grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        cos, sin, mirror = (t[:, None] for t in ctx.saved_tensors)
        b, c, h, w = gradient.shape
        places = torch.arange(max(h, w, 9), device=gradient.device)
        near = places[:9, None, None]
        # From the centre, in pixels.
        u, v = places[:w] - (w - 1) / 2, places[:h, None] - (h - 1) / 2
        # The nine pixels for each, (B, 9, H, W), and how far from it they were sampled.
        column = (mirror * (cos * u + sin * v) + (w - 1) / 2).round() + near % 3 - 1
        row = (cos * v - sin * u + (h - 1) / 2).round() + near // 3 - 1
        across, down = mirror * (column - (w - 1) / 2), row - (h - 1) / 2
        weight = _tent(cos * across - sin * down - u) * _tent(sin * across + cos * down - v)
        weight = weight * ((column >= 0) & (column < w) & (row >= 0) & (row < h))
        index = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long()
        given = gradient.flatten(2).gather(2, index.view(b, 1, -1).expand(b, c, -1))
        return (given.view(b, c, 9, h, w) * weight[:, None]).sum(2), None, None, None, None


def _tent(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp_min(0)


def apply_flip(x: Tensor, flip: Tensor) -> Tensor:
    """Mirror left-right where ``flip`` (B,) is true."""
    return torch.where(flip[:, None, None, None], x.flip(-1), x)


@dataclass
class Augment:
    """The training augmentation: random crop, rotation, horizontal flip.

    Attributes:
        padding: pixels of zero padding around before the crop; 0 switches it off.
        rotation: degrees to either side; 0 switches it off.
        flip: mirror half of the images.
    """

    padding: int = 4
    rotation: float = 15.0
    flip: bool = False

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, C, H, W), uint8 or in [0, 1], -> the same shape in [0, 1].

        ``generator`` lives on ``x``'s device.
        """
        b = len(x)

        def uniform() -> Tensor:
            return torch.rand(b, device=x.device, generator=generator)

        if self.padding:
            span = 2 * self.padding + 1
            top, left = (uniform() * span).long(), (uniform() * span).long()
            x = apply_crop(x, top, left, self.padding)
        if x.dtype == torch.uint8:
            x = x.to(torch.get_default_dtype()).div_(255)
        degrees = (uniform() * 2 - 1) * self.rotation if self.rotation else None
        flip = uniform() < 0.5 if self.flip else None
        if degrees is not None:
            return apply_rotation(x, degrees, flip)
        return x if flip is None else apply_flip(x, flip)
