"""Images a second: whole batches on the device against torchvision's one by one in a DataLoader."""

from __future__ import annotations

import os

from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import to_pil_image

from unlearn.engine.augment import Augment
from unlearn.engine.fitting import ShuffledRows
from unlearn.engine.seeding import seeded

from .measure import Options, Result, against_the_first, in_turns
from .subjects import random_images

BATCH = 128
IMAGES = 4096
WORKERS = sorted({0, 2, min(8, os.cpu_count() or 1)})
AUGMENT = Augment(padding=4, rotation=15, flip=True)


class OneByOne(Dataset[Tensor]):
    """What torchvision's data sets do: an array's row, as a PIL image, through the transforms."""

    def __init__(self, images: Tensor) -> None:
        self.images = [to_pil_image(image) for image in images]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(images.shape[-2:], padding=AUGMENT.padding),
                transforms.RandomRotation(AUGMENT.rotation, InterpolationMode.BILINEAR),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        x: Tensor = self.transform(self.images[row])
        return x


def bench(options: Options) -> list[Result]:
    """An epoch of grey and of colour images of 32x32, in batches of 128."""
    return [_of(options, channels) for channels in (1, 3)]


def _of(options: Options, channels: int) -> Result:
    device, tiny = options.device, options.scale == "tiny"
    number = 32 if tiny else IMAGES
    images = random_images(number, (channels, 32, 32))
    here, data = images.to(device), OneByOne(images)
    rng = seeded(0, "data", device=device)
    loaders = {
        f"torchvision in a DataLoader, {n} workers": DataLoader(
            data, BATCH, shuffle=True, num_workers=n, persistent_workers=n > 0
        )
        for n in ([0] if tiny else WORKERS)
    }

    def usual(loader: DataLoader[Tensor]) -> None:
        for batch in loader:
            batch.to(device)

    def ours() -> None:
        for rows in ShuffledRows(number, BATCH, 1, rng):
            AUGMENT(here.index_select(0, rows), rng)

    ways = {name: (lambda x=loader: usual(x)) for name, loader in loaders.items()}
    times = in_turns({**ways, "on the device, a batch at once": ours}, options.repeats, device)
    # The quickest of the usual ways is what ours is held against.
    order = sorted(ways, key=lambda name: min(times[name])) + list(times)[-1:]
    return Result(
        f"{number} images of {channels}x32x32 cropped, rotated, mirrored, batches of {BATCH}",
        against_the_first({n: times[n] for n in order}, dict.fromkeys(order, number), "image"),
    )
