"""MNIST (LeCun et al. 1998) through torchvision: 60,000 and 10,000 images of 28x28."""

from __future__ import annotations

from pathlib import Path

from torchvision import datasets

from unlearn.data.base import SOURCES, Images, Pair, Source, downloaded


@SOURCES.register("mnist")
class MNIST(Source):
    """Full MNIST from ``data_dir/MNIST/raw``, downloaded there once."""

    mean, std = [0.1307], [0.3081]
    folder = "MNIST/raw"

    def load(self, data_dir: Path) -> Pair:
        downloaded("MNIST", data_dir, self.folder, lambda d: datasets.MNIST(d, download=True))
        parts = [datasets.MNIST(data_dir, train=t) for t in (True, False)]
        train, test = (Images(p.data[:, None], p.targets) for p in parts)
        return Pair(train, test, [str(d) for d in range(10)])
