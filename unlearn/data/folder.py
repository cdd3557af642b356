"""Image folders in torchvision's ImageFolder layout: one's own images, CIFAR-10 as JPEG."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import datasets

from unlearn.data.base import SOURCES, Images, Pair, Source
from unlearn.errors import UserError


@SOURCES.register("folder")
class Folder(Source):
    """``data_dir/train/CLASS/*`` and ``data_dir/test/CLASS/*``, read as RGB.

    Images of another size than the first are resized to it.
    """

    mean, std = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
    note = "image files; CIFAR-10 as JPEG has been compressed again"

    def load(self, data_dir: Path) -> Pair:
        folders = {split: _listed(data_dir / split) for split in ("train", "test")}
        names = folders["train"].classes
        if folders["test"].classes != names:
            raise UserError(
                "data_dir", f"train/ and test/ of {str(data_dir)!r} hold different classes"
            )
        if len(names) < 2:
            raise UserError(
                "data_dir",
                f"{str(data_dir)!r} holds one class only ({names[0]}); a classifier needs two",
            )
        size = _read(folders["train"].samples[0][0], None).shape[:2]
        train, test = (_decoded(folders[split], size) for split in ("train", "test"))
        return Pair(train, test, names)

    def identity(self, data_dir: Path) -> str:
        listed = [
            f"{p.relative_to(data_dir)} {p.stat().st_size}"
            for p in sorted(data_dir.glob("*/*/*"))
            if p.is_file()
        ]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]


def _listed(folder: Path) -> datasets.ImageFolder:
    try:
        return datasets.ImageFolder(str(folder))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            "data_dir",
            f"no images in {str(folder)!r}; a folder has train/CLASS/ and test/CLASS/ ({error})",
        ) from error


def _decoded(folder: datasets.ImageFolder, size: tuple[int, ...]) -> Images:
    pixels = np.stack([_read(path, size) for path, _ in folder.samples])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Images(x, torch.tensor(folder.targets))


def _read(path: str, size: tuple[int, ...] | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            if size is not None and rgb.size != (size[1], size[0]):
                rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            return np.asarray(rgb)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError("data_dir", f"the image {path!r} cannot be read ({error})") from error
