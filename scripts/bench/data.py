"""Images a second: whole batches on the device against torchvision's one by one in a DataLoader."""

from __future__ import annotations

import torch
import torchvision.transforms.functional as one
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from unlearn.engine.augment import Augment, apply_crop, apply_rotation
from unlearn.engine.fitting import ShuffledRows
from unlearn.engine.seeding import seeded

from .measure import Options, Result, against_the_first, in_turns
from .subjects import random_images

BATCH = 128
IMAGES = {"tiny": 32, "demo": 4096, "paper": 16384}
WORKERS = {"tiny": [0], "demo": [0, 2], "paper": [0, 2, 8]}
AUGMENT = Augment(padding=4, rotation=15, flip=True)


class OneByOne(Dataset[Tensor]):
    """What torchvision's data sets do: an array's row, as a PIL image, through the transforms."""

    def __init__(self, images: Tensor) -> None:
        self.images = [one.to_pil_image(image) for image in images]
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
    device, number = options.device, IMAGES[options.scale]
    images = random_images(number, (channels, 32, 32))
    here, data = images.to(device), OneByOne(images)
    rng = seeded(0, "data", device=device)
    loaders = {
        f"torchvision in a DataLoader, {n} workers": DataLoader(
            data, BATCH, shuffle=True, num_workers=n, persistent_workers=n > 0
        )
        for n in WORKERS[options.scale]
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
        {"largest difference of the results, of 1": difference(here[:32])},
    )


def difference(images: Tensor) -> float:
    """Of a batch's augmentation and torchvision's of each image, with the same draws."""
    x, pad, rng = images.float() / 255, AUGMENT.padding, seeded(0, "difference")
    top, left = (torch.randint(0, 2 * pad + 1, (len(x),), generator=rng) for _ in range(2))
    degrees = (torch.rand(len(x), generator=rng) * 2 - 1) * AUGMENT.rotation
    flip = torch.rand(len(x), generator=rng) < 0.5
    batch = apply_crop(x, top.to(x.device), left.to(x.device), pad)
    batch = apply_rotation(batch, degrees.to(x.device), flip.to(x.device))
    worst = 0.0
    for i, image in enumerate(x.cpu()):
        alone = one.crop(one.pad(image, [pad]), int(top[i]), int(left[i]), *image.shape[-2:])
        alone = one.rotate(alone, float(degrees[i]), InterpolationMode.BILINEAR)
        alone = one.hflip(alone) if flip[i] else alone
        worst = max(worst, float((batch[i].cpu() - alone).abs().max()))
    return worst
