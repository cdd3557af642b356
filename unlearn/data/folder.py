"""Image folders in torchvision's ImageFolder layout: one's own images, CIFAR-10 as JPEG."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unlearn.data.base import SOURCES, Images, Pair, Source, fit_size
from unlearn.data.reading import naming, printable, read_rgb
from unlearn.errors import UserError

log = logging.getLogger(__name__)

SPLITS = ("train", "test")
# torchvision's, and further names of the same kinds of file.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".bmp", ".tif", ".tiff", ".webp", ".gif"),
)
# What computers leave in folders, beside what begins with a dot; in lower case.
LITTER = (
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "__pycache__",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)
# Seconds within which a file may change twice and its time of change not show it.
UNSETTLED = 3.0

# What each folder's files looked like when its identity was last computed.
_known: dict[str, tuple[bytes, str]] = {}


@SOURCES.register("folder")
class Folder(Source):
    """Images of any depth below ``data_dir/train/CLASS/`` and ``data_dir/test/CLASS/``, as RGB.

    ``read_rgb`` says how they are read. Images of another size than the first are resized to it.
    Left out are names that begin with a dot, what computers leave in folders (``LITTER``), files
    that do not end in one of ``EXTENSIONS``, in either case, and links to a folder that they lie
    in; other links are followed. Bytes of a class's name that are not UTF-8 are written
    ``\\xNN``.
    """

    mean, std = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
    note = "image files; CIFAR-10 as JPEG has been compressed again"

    def load(self, data_dir: Path, size: int | None = None) -> Pair:
        """The images as uint8 (N, 3, H, W), each fitted to ``size`` as soon as it is read.

        Args:
            size: in pixels; None keeps the first image's size.

        Raises:
            UserError: naming the file or folder, if one cannot be read, a class is without
                images, train/ and test/ hold different classes or there are less than two.
        """
        train, test = (_listed(data_dir, split) for split in SPLITS)
        _check(data_dir, train.classes, test.classes)
        notes = Notes()
        for path in (*train.others, *test.others):
            notes.add("left out; its name is not that of an image in a class's folder", path)
        shape = _read(train.images[0], None, Notes()).size
        seen, unseen = (_decoded(found, shape, size, notes) for found in (train, test))
        pair = Pair(seen, unseen, [printable(name) for name in train.classes])
        notes.tell()
        return pair

    def load_fitted(self, data_dir: Path, size: int | None) -> Pair:
        return self.load(data_dir, size)

    def identity(self, data_dir: Path) -> str:
        """16 hex digits for the names and contents of all the images that ``load`` reads.

        Within a process the contents are read again only after a file has changed.
        """
        paths = [path for split in SPLITS for path in _below(data_dir / split)]
        key = os.path.abspath(data_dir)
        stamp, changed = _stamp(paths)
        known = _known.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        now = time.time()
        identity = _digest(data_dir, paths)
        if changed + UNSETTLED < now:
            _known[key] = (stamp, identity)
        return identity


@dataclass
class _Listed:
    """The files of train/ or test/, in order of their folders, then their names."""

    classes: list[str]
    images: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


class Notes:
    """What is to be said about files: once for all the files that it is true of."""

    def __init__(self) -> None:
        self.paths: dict[str, list[str]] = {}

    def add(self, message: str, path: str) -> None:
        self.paths.setdefault(message, []).append(path)

    @contextmanager
    def warned(self, path: str) -> Iterator[None]:
        """Note the warnings about one file. That an image is large is no matter."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            yield
        for warning in caught:
            self.add(str(warning.message), path)

    def tell(self) -> None:
        for message, paths in self.paths.items():
            more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
            log.warning("%s: %s%s", printable(paths[0]), printable(message), more)


def not_litter(entries: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    """What is no system's or editor's file: see ``LITTER``."""
    return [e for e in entries if not e.name.startswith(".") and e.name.lower() not in LITTER]


def is_image(path: str) -> bool:
    """Whether a file's name says that it is an image."""
    return path.lower().endswith(EXTENSIONS)


def files_below(folder: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Every file below a folder that is none of the folders ``above`` (device, inode)."""
    here = os.stat(folder)
    mark = (here.st_dev, here.st_ino)
    if mark in above:
        return
    with os.scandir(folder) as entries:
        kept = not_litter(entries)
    for entry in kept:
        if entry.is_dir():
            yield from files_below(entry.path, (*above, mark))
        else:
            yield entry.path


def _scan(folder: Path) -> _Listed:
    """All that lies in train/ or test/; ``OSError`` if a folder cannot be read."""
    with os.scandir(folder) as entries:
        kept = sorted(not_litter(entries), key=lambda e: e.name)
    classes = [e.name for e in kept if e.is_dir()]
    found = _Listed(classes, others=[e.path for e in kept if not e.is_dir()])
    above = tuple((s.st_dev, s.st_ino) for s in (os.stat(folder.parent), os.stat(folder)))
    for label, name in enumerate(classes):
        for path in sorted(files_below(str(folder / name), above), key=os.path.split):
            (found.images if is_image(path) else found.others).append(path)
        found.labels += [label] * (len(found.images) - len(found.labels))
    return found


def _listed(data_dir: Path, split: str) -> _Listed:
    folder = data_dir / split
    try:
        found = _scan(folder)
    except OSError as error:
        wrong = "cannot be read" if folder.is_dir() else "is no folder"
        raise UserError(
            "data_dir",
            f"'{printable(folder)}' {wrong}; images lie in train/CLASS/ and test/CLASS/ "
            f"({printable(str(error))})",
        ) from error
    if not found.classes:
        raise UserError("data_dir", f"'{printable(folder)}' holds no folders, one for each class")
    empty = set(range(len(found.classes))) - set(found.labels)
    if empty:
        raise UserError(
            "data_dir",
            f"the class folder '{printable(folder / found.classes[min(empty)])}' holds no images "
            f"(files that end in {', '.join(EXTENSIONS)})",
        )
    return found


def _check(data_dir: Path, train: list[str], test: list[str]) -> None:
    where = f"'{printable(data_dir)}'"
    if train != test:
        sides = [
            ("train", sorted(set(train) - set(test))),
            ("test", sorted(set(test) - set(train))),
        ]
        only = "; ".join(f"only in {side}/: {_some(names)}" for side, names in sides if names)
        raise UserError("data_dir", f"train/ and test/ of {where} hold different classes ({only})")
    if len(train) < 2:
        raise UserError(
            "data_dir",
            f"{where} holds one class only ({printable(train[0])}); a classifier needs two",
        )


def _some(names: list[str], most: int = 5) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*map(printable, names[:most]), *more])


def _decoded(found: _Listed, shape: tuple[int, int], size: int | None, notes: Notes) -> Images:
    width, height = shape if size is None else (size, size)
    try:
        x = np.empty((len(found.images), 3, height, width), np.uint8)
    except MemoryError as error:
        raise UserError(
            "image_size",
            f"{len(found.images)} images of {height}x{width} do not fit into memory; "
            "give a smaller size",
        ) from error
    for row, path in zip(x, found.images, strict=True):
        image = _read(path, shape, notes)
        with naming(path):
            row[:] = fit_size(_planes(image), size)[:, 0].numpy()
    return Images(torch.from_numpy(x), torch.tensor(found.labels))


def _read(path: str, shape: tuple[int, int] | None, notes: Notes) -> Image.Image:
    with naming(path), notes.warned(path):
        rgb = read_rgb(path)
        if shape is not None and rgb.size != shape:
            rgb = rgb.resize(shape, Image.Resampling.BILINEAR)
        return rgb


def _planes(image: Image.Image) -> Tensor:
    """RGB -> uint8 (3, 1, H, W)."""
    pixels = np.array(image).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels))[:, None]


def _below(folder: Path) -> list[str]:
    """The images of train/ or test/; none if it cannot be read, which ``load`` complains of."""
    try:
        return _scan(folder).images
    except OSError:
        return []


def _stamp(paths: list[str]) -> tuple[bytes, float]:
    """What changes if a file does, and when the last one changed (seconds since 1970)."""
    stamp, last = hashlib.sha256(), 0.0
    for path in paths:
        try:
            s = os.stat(path)
        except OSError:
            stamp.update(os.fsencode(path) + b"\0")
            continue
        facts = (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        stamp.update(os.fsencode(path) + f"\0{facts}".encode())
        last = max(last, s.st_mtime, s.st_ctime)
    return stamp.digest(), last


def _digest(data_dir: Path, paths: list[str]) -> str:
    whole, start = hashlib.sha256(), len(str(data_dir / SPLITS[0])) - len(SPLITS[0])
    for path in paths:
        whole.update(os.fsencode(path[start:]) + b"\0" + _contents(path))
    return whole.hexdigest()[:16]


def _contents(path: str) -> bytes:
    """SHA-256 of a file; of one that cannot be read, which ``load`` complains of, nothing."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
