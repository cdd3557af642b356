"""A small convolutional network for two CPU cores."""

from __future__ import annotations

from torch import Tensor, nn

from unlearn.models.base import MODELS, ModelConfig, norm_layer

GRID = 4


class GridPool(nn.AdaptiveAvgPool2d):
    """Means over a 4x4 grid; what is 4x4 already passes, sparing a copy that is slow on the CPU."""

    def __init__(self) -> None:
        super().__init__(GRID)

    def forward(self, input: Tensor) -> Tensor:
        same = input.shape[-2:] == (GRID, GRID)
        return input if same else super().forward(input)


@MODELS.register("small_cnn")
class SmallCNN(nn.Sequential):
    """Four 3x3 convolutions of widths w, 2w, 4w, 8w, halving three times; two linear layers.

    (B, channels, H, W) -> logits (B, classes); the last layer's input is the 8w-d embedding. The
    embedding sees where things are (a 4x4 grid), so that its statistics tell of shapes.
    """

    def __init__(self, cfg: ModelConfig, channels: int, classes: int) -> None:
        norm, w = norm_layer(cfg.norm), cfg.width
        layers: list[nn.Module] = []
        inside = channels
        for out, stride in ((w, 1), (2 * w, 2), (4 * w, 2), (8 * w, 2)):
            layers += [nn.Conv2d(inside, out, 3, stride, 1, bias=False), norm(out), nn.ReLU()]
            inside = out
        dense_norm = {"batch": nn.BatchNorm1d(inside), "layer": nn.LayerNorm(inside)}
        super().__init__(
            *layers,
            GridPool(),
            nn.Flatten(),
            nn.Linear(inside * GRID**2, inside),
            # Over single values an instance norm would leave nothing.
            dense_norm.get(cfg.norm, nn.Identity()),
            nn.ReLU(),
            nn.Linear(inside, classes),
        )
