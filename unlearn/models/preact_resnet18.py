"""PreAct-ResNet18 (He et al. 2016, Identity Mappings in Deep Residual Networks)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.models.base import MODELS, ModelConfig, norm_layer


class PreActBlock(nn.Module):
    """norm-ReLU-conv twice, added to the input (or its 1x1 projection)."""

    def __init__(self, inside: int, out: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.norm1, self.norm2 = norm(inside), norm(out)
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.project = (
            nn.Conv2d(inside, out, 1, stride, bias=False) if stride > 1 or inside != out else None
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        skip = x if self.project is None else self.project(h)
        h = self.conv1(h)
        h = self.conv2(F.relu(self.norm2(h)))
        out: Tensor = h + skip
        return out


@MODELS.register("preact_resnet18")
class PreActResNet18(nn.Sequential):
    """3x3 stem, four stages of two blocks at widths w, 2w, 4w, 8w, average pool, linear.

    (B, channels, H, W) -> logits (B, classes); the last layer's input is the 8w-d embedding.
    """

    def __init__(self, cfg: ModelConfig, channels: int, classes: int) -> None:
        norm, w = norm_layer(cfg.norm), cfg.width
        stages: list[nn.Module] = []
        inside = w
        for out, stride in ((w, 1), (2 * w, 2), (4 * w, 2), (8 * w, 2)):
            stages += [PreActBlock(inside, out, stride, norm), PreActBlock(out, out, 1, norm)]
            inside = out
        super().__init__(
            nn.Conv2d(channels, w, 3, 1, 1, bias=False),
            *stages,
            norm(inside),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(inside, classes),
        )
