"""Images from files for a model of any origin: as many channels and pixels as it takes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from unlearn.data.base import Images
from unlearn.data.folder import EXTENSIONS, Notes, files_below, is_image, not_litter
from unlearn.data.reading import naming, printable, read_rgb
from unlearn.errors import UserError

MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Wanted:
    """The images that a model takes.

    Attributes:
        channels: 1 or 3.
        size: height and width in pixels.
    """

    channels: int
    size: tuple[int, int]


def image_files(where: str | Sequence[str], key: str) -> list[str]:
    """The images that are named, or lie at any depth in folders that are, in order.

    Args:
        key: the setting that names them.

    Raises:
        UserError: if there is nothing of a name, or no image at all.
    """
    found: list[str] = []
    for name in [where] if isinstance(where, str) else where:
        path = os.path.expanduser(name)
        if os.path.isdir(path):
            try:
                below = [f for f in files_below(path) if is_image(f)]
            except OSError as error:
                raise _unreadable(name, key, error) from error
            found += sorted(below, key=os.path.split)
        elif os.path.exists(path):
            found.append(path)
        else:
            raise UserError(key, f"there is no file or folder '{printable(name)}'")
    if not found:
        shown = where if isinstance(where, str) else ", ".join(where)
        raise UserError(
            key, f"'{printable(shown)}' holds no images (files that end in {', '.join(EXTENSIONS)})"
        )
    return found


def read_images(files: Sequence[str], wanted: Wanted, key: str) -> Tensor:
    """Images as uint8 (n, C, H, W).

    One of another size is scaled until it covers the wanted one, and its middle is cut out.

    Args:
        key: the setting that names them.

    Raises:
        UserError: naming the file, if one cannot be read.

    Example:
        >>> read_images([], Wanted(3, (8, 8)), "scenario.shots").shape
        torch.Size([0, 3, 8, 8])
    """
    height, width = wanted.size
    x = np.empty((len(files), wanted.channels, height, width), np.uint8)
    notes = Notes()
    for row, path in zip(x, files, strict=True):
        with naming(path, key), notes.warned(path):
            image = read_rgb(path)
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            pixels = np.array(image.convert(MODES[wanted.channels]))
            row[:] = pixels.reshape(height, width, wanted.channels).transpose(2, 0, 1)
    notes.tell()
    return torch.from_numpy(x)


def class_folders(folder: str, key: str) -> dict[str, list[str]]:
    """The images in each folder of a folder, by its name, in order.

    Raises:
        UserError: if there is no such folder, or it holds no folders with images.
    """
    place = Path(os.path.expanduser(folder))
    if not place.is_dir():
        raise UserError(key, f"there is no folder '{printable(folder)}'")
    try:
        with os.scandir(place) as entries:
            names = sorted(e.name for e in not_litter(entries) if e.is_dir())
    except OSError as error:
        raise _unreadable(folder, key, error) from error
    if not names:
        raise UserError(
            key, f"'{printable(folder)}' holds no folders, one of images for each class"
        )
    return {name: image_files(str(place / name), key) for name in names}


def labelled(
    folders: dict[str, list[str]], labels: dict[str, int], wanted: Wanted, key: str
) -> Images:
    """The images of class folders with their labels.

    Args:
        folders: files by the folder's name.
        labels: the label of each folder's images.

    Raises:
        UserError: as ``read_images``.
    """
    files = [f for name in folders for f in folders[name]]
    y = [labels[name] for name in folders for _ in folders[name]]
    return Images(read_images(files, wanted, key), torch.tensor(y))


def contents(where: str | Sequence[str], key: str) -> list[str]:
    """A hash of each image's file, in order, with its name within a folder.

    Raises:
        UserError: as ``image_files``; if a file cannot be read.
    """
    return [
        f"{Path(f).parent.name}/{Path(f).name} {file_hash(f, key)}" for f in image_files(where, key)
    ]


def _unreadable(name: str, key: str, error: OSError) -> UserError:
    return UserError(key, f"'{printable(name)}' cannot be read ({printable(str(error))})")


def file_hash(path: str, key: str) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise OSError("it is no regular file")
        with open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, key, error) from error
