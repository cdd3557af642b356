"""Random augmentations of whole batches, on the batch's device, another draw for every image.

Each ``apply`` function is deterministic and equals torchvision's per-image result; ``Augment``
draws the parameters. Images are (B, C, H, W) in [0, 1] and stay differentiable; ``Augment`` takes
uint8 ones too, which it crops as they are: a quarter of the bytes to move.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def apply_crop(x: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Zero-pad by ``padding`` and cut (H, W) again at ``top``, ``left`` (B,) in [0, 2 padding]."""
    b, c, h, w = x.shape
    padded = F.pad(x, (padding,) * 4)
    rows = top[:, None] + torch.arange(h, device=x.device)
    if not x.requires_grad:
        # Whole rows at a time. Quicker, but the gradient of the overlapping runs would not be.
        runs = padded.flatten().unfold(0, w, 1)
        planes = torch.arange(b * c, device=x.device).view(b, c, 1) * padded[0, 0].numel()
        starts = planes + (rows * padded.shape[-1] + left[:, None])[:, None]
        return runs.index_select(0, starts.flatten()).view(b, c, h, w)
    columns = left[:, None] + torch.arange(w, device=x.device)
    index = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).view(b, 1, h * w)
    return padded.flatten(2).gather(2, index.expand(b, c, h * w)).view(b, c, h, w)


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
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


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
