"""Images that somebody dropped on the page: limited, checked, read, and their files removed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unlearn.data.reading import printable
from unlearn.data.shots import Wanted, read_images
from unlearn.errors import UserError

MIB = 2**20
# Of what Pillow reads, the formats that need no other program and hold no vector drawings.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM")
KEY = "images"


@dataclass(frozen=True)
class Limits:
    """What may be dropped.

    Attributes:
        files: how many images a person may have in one place.
        bytes: of one file.
        pixels: of one image.
    """

    files: int = 200
    bytes: int = 20 * MIB
    pixels: int = 50_000_000


@dataclass
class Dropped:
    """Images in the order of their names.

    Attributes:
        names: of their files.
        images: uint8 (n, C, H, W).
        digests: of their files' bytes.
    """

    wanted: Wanted
    limits: Limits = field(default_factory=Limits)
    names: list[str] = field(default_factory=list)
    images: Tensor = field(init=False)
    digests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.images = read_images([], self.wanted, KEY)

    def __len__(self) -> int:
        return len(self.names)

    def clear(self) -> None:
        """Remove them all."""
        self.names, self.digests, self.images = [], [], self.images[:0]

    def put(self, images: Tensor, name: str) -> None:
        """Images from elsewhere, uint8 (n, C, H, W), in place of those that are there."""
        self.names = [f"{name} {i + 1}" for i in range(len(images))]
        self.digests = [""] * len(images)
        self.images = images

    def add(self, paths: Sequence[str], folder: Path) -> list[str]:
        """Read files and remove them.

        Args:
            folder: that of the uploads; nothing outside of it is read or removed.

        Returns:
            For each file that is refused, why.
        """
        refused = []
        for path in paths:
            try:
                self._add_one(within(path, folder))
            except UserError as error:
                said = str(error).removeprefix(f"{KEY}: ")
                refused.append(said.replace(printable(path), printable(Path(path).name)))
        order = sorted(range(len(self)), key=lambda i: (self.names[i], self.digests[i]))
        self.names = [self.names[i] for i in order]
        self.digests = [self.digests[i] for i in order]
        self.images = self.images[order]
        return refused

    def _add_one(self, path: Path) -> None:
        try:
            name = printable(path.name)
            if len(self) >= self.limits.files:
                raise UserError(KEY, f"'{name}' is one too many; {self.limits.files} are taken")
            digest = checked(path, self.limits)
            if digest in self.digests:
                raise UserError(KEY, f"'{name}' is there already")
            image = read_images([str(path)], self.wanted, KEY)
        finally:
            remove(path)
        self.names.append(name)
        self.digests.append(digest)
        self.images = torch.cat([self.images, image])


def within(path: str, folder: Path) -> Path:
    """A file's real path.

    Raises:
        UserError: if it is no file in the folder.
    """
    try:
        real = Path(path).resolve(strict=True)
    except (OSError, ValueError) as error:
        raise UserError(KEY, "the file is gone; drop it again") from error
    if not real.is_file() or not real.is_relative_to(folder.resolve()):
        raise UserError(KEY, "only files that are dropped here are read")
    return real


def checked(path: Path, limits: Limits) -> str:
    """SHA-256 of an image's file whose size and pixels are within the limits.

    Raises:
        UserError: if they are not, or its format is not read.
    """
    name, size = printable(path.name), path.stat().st_size
    if size > limits.bytes:
        raise UserError(KEY, f"'{name}' has {size / MIB:.1f} MiB; {limits.bytes / MIB:g} are taken")
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    # The readers of damaged files raise almost anything.
    except Exception as error:
        raise UserError(KEY, f"'{name}' is no image, or of a kind that is not read") from error
    if width * height > limits.pixels:
        raise UserError(
            KEY, f"'{name}' has {width}x{height} pixels; {limits.pixels:,} in all are taken"
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Remove a file, and its folder if nothing else is in it."""
    with suppress(OSError):
        path.unlink()
        path.parent.rmdir()
