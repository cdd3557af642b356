"""What a data source gives and how one is added."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from unlearn.errors import UserError
from unlearn.registry import Registry


@dataclass
class Images:
    """Labelled images: ``x`` uint8 (N, C, H, W), ``y`` int64 (N,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> Images:
        return Images(self.x[rows], self.y[rows])


@dataclass
class Pair:
    """A training and a test set over the same named classes."""

    train: Images
    test: Images
    classes: list[str]


class Source(ABC):
    """Where images come from. One file with one registered class adds a source.

    Attributes:
        mean, std: per-channel normalisation of the images in [0, 1].
        note: what must be said beside a number from this source.
        folder: where its files lie in ``data_dir``; without it they are downloaded.
    """

    mean: ClassVar[list[float]]
    std: ClassVar[list[float]]
    note: ClassVar[str] = ""
    folder: ClassVar[str] = ""

    def here(self, data_dir: Path) -> bool:
        """Whether the images can be loaded without a download."""
        return not self.folder or (data_dir / self.folder).is_dir()

    @abstractmethod
    def load(self, data_dir: Path) -> Pair:
        """The images at their own size.

        Raises:
            UserError: if the data are neither there nor to be had, or cannot be read.
        """

    def load_fitted(self, data_dir: Path, size: int | None) -> Pair:
        """The images as ``load`` gives them, or already as ``fit_size`` makes them.

        A source whose images may be large overrides it, so as not to keep them all at their own
        size.

        Raises:
            UserError: as ``load``.
        """
        return self.load(data_dir)

    def identity(self, data_dir: Path) -> str:
        """What tells two versions of the data apart; empty for a source that never changes."""
        return ""


SOURCES: Registry[type[Source]] = Registry("data")
FLOATS = 2**22


def digests(x: Tensor) -> list[str]:
    """The first 16 hex digits of each image's SHA-256: uint8 (N, ...) -> N strings."""
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in x.contiguous().numpy()]


def fit_size(x: Tensor, size: int | None) -> Tensor:
    """uint8 (N, C, H, W) -> (N, C, size, size): black borders around small images."""
    h, w = x.shape[-2:]
    if size is None or (h, w) == (size, size):
        return x
    if h > size or w > size:
        # Few at a time: they are four times as large as floats.
        parts = [
            F.interpolate(p.float(), (size, size), mode="bilinear", antialias=True)
            for p in x.reshape(-1, 1, h, w).split(max(1, FLOATS // (h * w)))
        ]
        small = torch.cat([p.round().clamp(0, 255).to(torch.uint8) for p in parts])
        return small.view(*x.shape[:2], size, size)
    top, left = (size - h) // 2, (size - w) // 2
    return F.pad(x, (left, size - w - left, top, size - h - top))


def first_per_class(images: Images, number: int | None) -> Images:
    """The first ``number`` images of each class, in order; all for None."""
    if number is None:
        return images
    rows = torch.cat([(images.y == c).nonzero()[:number, 0] for c in images.y.unique()])
    return images[rows.sort().values]


def downloaded(name: str, data_dir: Path, there: str, download: Callable[[Path], object]) -> None:
    """Make sure ``data_dir / there`` exists, by one download however many processes ask.

    A broken download leaves nothing behind.

    Raises:
        UserError: with the ways out, if it is not there and cannot be downloaded.
    """
    if (data_dir / there).is_dir():
        return
    existing = next(p for p in [data_dir, *data_dir.parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError("data_dir", f"{name} is not in {str(data_dir)!r} and it is not writable")
    with _scratch(data_dir) as scratch, FileLock(_lock_of(data_dir)):
        if (data_dir / there).is_dir():
            return
        try:
            download(scratch)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                "data_dir",
                f"{name} is not in {str(data_dir)!r} and could not be downloaded ({error}); "
                "name a folder that holds it (data_dir=DIR or UNLEARN_DATA=DIR), or use images "
                "that need no download (scale=demo or data=mnist5k)",
            ) from error
        (data_dir / there).parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch / there, data_dir / there)


def _lock_of(data_dir: Path) -> Path:
    name = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"unlearn-download-{name}.lock"


@contextmanager
def _scratch(data_dir: Path) -> Iterator[Path]:
    """A folder on ``data_dir``'s disk; it and any parents made for it go if left empty."""
    made = [p for p in [data_dir, *data_dir.parents] if not p.exists()]
    data_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=data_dir))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
