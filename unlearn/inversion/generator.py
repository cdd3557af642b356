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


class Generator(nn.Module):
    """Noise and a condition to an image in [0, 1].

    A linear layer to (8 width, H/4, W/4), then twice [upsample 2, 3x3 convolution, BatchNorm,
    LeakyReLU 0.2] with 4 and 2 width channels, a 3x3 convolution to the image, a sigmoid.

    Args:
        conditions: |Y+|, the classes and y+.
        shape: (C, H, W) of an image; H and W are multiples of 4.
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
        channels, height, self.columns = shape[0], shape[1] // 4, shape[2] // 4
        self.rows = height
        self.project = nn.Linear(z + conditions, 8 * width * height * self.columns)
        self.body = nn.Sequential(
            nn.BatchNorm2d(8 * width),
            DoublingConv2d(8 * width, 4 * width),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(0.2),
            DoublingConv2d(4 * width, 2 * width),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, channels, 3, 1, 1),
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Noise (B, z) and conditions (B,) in Y+ -> images (B, C, H, W) in [0, 1]."""
        code = self.emphasis * F.one_hot(y, self.conditions).to(z.dtype)
        h = self.project(torch.cat([z, code], dim=1))
        x = self.body(h.view(len(z), -1, self.rows, self.columns))
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
        for i, part in enumerate(self.parts):
            x[i :: len(self.parts)] = part(z[i :: len(self.parts)], y[i :: len(self.parts)])
        return x


AnyGenerator = Generator | Generators
