"""CIFAR-10 (Krizhevsky 2009) through torchvision: 50,000 and 10,000 images of 3x32x32."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision import datasets

from unlearn.data.base import SOURCES, Images, Pair, Source, downloaded
from unlearn.errors import UserError


@SOURCES.register("cifar10")
class CIFAR10(Source):
    """CIFAR-10 from ``data_dir/cifar-10-batches-py``, downloaded there once.

    torchvision reads its pickles only after checking their published MD5 sums.
    """

    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    folder = "cifar-10-batches-py"

    def load(self, data_dir: Path) -> Pair:
        downloaded(
            "CIFAR-10",
            data_dir,
            self.folder,
            lambda d: datasets.CIFAR10(d, download=True),
        )
        try:
            parts = [datasets.CIFAR10(data_dir, train=t) for t in (True, False)]
        except RuntimeError as error:
            raise UserError(
                "data_dir", f"the CIFAR-10 files in {str(data_dir)!r} are damaged: {error}"
            ) from error
        train, test = (
            Images(
                torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(p.targets)
            )
            for p in parts
        )
        return Pair(train, test, list(parts[0].classes))
