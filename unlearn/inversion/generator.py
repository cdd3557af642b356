"""The conditional generator G: Z x Y+ -> X, after DCGAN (Radford et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.engine.statistics import wide


class DoublingConv2d(nn.Conv2d):
    """A 3x3 convolution of an image upsampled by 2 (nearest neighbour), without making that image.

    Pixels that are equal share a product: one transposed 4x4 convolution gives the same with 4
    products for 9. (B, C, H, W) -> (B, out_channels, 2H, 2W).
    """

    def __init__(self, inside: int, out: int) -> None:
        super().__init__(inside, out, 3, 1, 1)

    def forward(self, input: Tensor) -> Tensor:
        sums = F.avg_pool2d(self.weight, 2, 1, 1, divisor_override=1)
        kernel = sums.flip(-1, -2).transpose(0, 1)
        return F.conv_transpose2d(input, kernel, self.bias, stride=2, padding=1)


BASE = 16  # rows and columns that are doubled, at most


def doublings(shape: tuple[int, int, int]) -> int:
    """How often the generator doubles: until a base of at most 16x16 covers the image, and twice at
    least.

    Example:
        >>> [doublings((3, side, side)) for side in (28, 32, 64, 65, 128, 224)]
        [2, 2, 2, 3, 3, 4]
    """
    number = 2
    while max(shape[1:]) > BASE * 2**number:
        number += 1
    return number


class Generator(nn.Module):
    """Noise and a condition to an image in [0, 1].

    A linear layer to (8 width, rows, columns), then ``doublings`` times [upsample 2, 3x3
    convolution, BatchNorm, LeakyReLU 0.2], the last of them with 2 width channels and each before
    with twice as many up to 8 width, a 3x3 convolution to the image, a sigmoid. Where an image's
    side is no multiple of the doublings, the middle is cut out of a larger image.

    Args:
        conditions: |Y+|, the classes and y+.
        shape: (C, H, W) of an image.
        width: the base width (``ngf``).
        z: dimensions of the noise.
        emphasis: the condition's one-hot code is multiplied by it; at sqrt(z) it weighs as much as
            the noise, and the generator heeds it sooner.
    """

    def __init__(
        self,
        conditions: int,
        shape: tuple[int, int, int],
        width: int,
        z: int,
        emphasis: float = 1.0,
    ) -> None:
        super().__init__()
        self.conditions, self.shape, self.z, self.emphasis = conditions, shape, z, emphasis
        number = doublings(shape)
        self.rows, self.columns = (-(-side // 2**number) for side in shape[1:])
        made = self.rows * 2**number, self.columns * 2**number
        self.top, self.left = (made[0] - shape[1]) // 2, (made[1] - shape[2]) // 2
        self.whole = made == shape[1:]
        self.project = nn.Linear(z + conditions, 8 * width * self.rows * self.columns)
        layers: list[nn.Module] = [nn.BatchNorm2d(8 * width)]
        inside = 8 * width
        for i in range(number):
            out = min(8, 2 ** (number - i)) * width
            layers += [DoublingConv2d(inside, out), nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]
            inside = out
        self.body = nn.Sequential(*layers, nn.Conv2d(inside, shape[0], 3, 1, 1))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Noise (B, z) and conditions (B,) in Y+ -> images (B, C, H, W) in [0, 1]."""
        code = self.emphasis * F.one_hot(y, self.conditions).to(z.dtype)
        h = self.project(torch.cat([z, code], dim=1))
        x = self.body(h.view(len(z), -1, self.rows, self.columns))
        if not self.whole:
            rows, columns = (
                slice(self.top, self.top + self.shape[1]),
                slice(self.left, self.left + self.shape[2]),
            )
            x = x[:, :, rows, columns]
        return torch.sigmoid(wide(x))  # bfloat16 has fewer than an image's 256 steps near 1


class Generators(nn.Module):
    """Several generators that share the rows of a batch in turn.

    Args:
        parts: generators of the same conditions, noise and images.
    """

    def __init__(self, parts: Sequence[Generator]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        first = parts[0]
        self.conditions, self.shape, self.z = first.conditions, first.shape, first.z

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """As one generator's."""
        x = z.new_empty(len(z), *self.shape)
        for i, part in enumerate(self.parts[: len(z)]):  # fewer rows than parts: some get none
            x[i :: len(self.parts)] = part(z[i :: len(self.parts)], y[i :: len(self.parts)])
        return x


AnyGenerator = Generator | Generators
