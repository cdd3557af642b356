"""The stage store: tensors kept by the hash of all that made them, and checked on use."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlearn.errors import UserError

log = logging.getLogger(__name__)

# A stage's tensors, and a JSON-like remark beside them.
Entry = tuple[dict[str, Tensor], dict[str, Any]]

# Disk full, over quota, file-size limit, read-only.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def hash_of(value: Any) -> str:
    """16 hex digits that stand for a JSON-like value."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits that stand for named tensors: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if not isinstance(tensor, Tensor):  # a layer's extra state
            digest.update(f"{name} {tensor!r};".encode())
            continue
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)};".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors on the CPU, each with memory of its own."""
    return {
        k: v.detach().cpu().clone().contiguous()
        for k, v in module.state_dict().items()
        if isinstance(v, Tensor)
    }


@contextmanager
def writing(path: Path, key: str = "output_dir") -> Iterator[None]:
    """Errors of writing ``path`` as a ``UserError`` of the setting that says where it lies."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(key, f"{path} cannot be written ({reason})") from error


@contextmanager
def at_once(path: Path, key: str = "output_dir") -> Iterator[Path]:
    """A name to write to; the file is then ``path``, or gone if anything went wrong.

    Raises:
        UserError: naming ``key``, if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path, key):
        try:
            yield partial
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def make_folder(path: Path, key: str = "output_dir") -> None:
    """Make a folder and those above it.

    Raises:
        UserError: naming ``key``, if it cannot be made.
    """
    with writing(path, key):
        path.mkdir(parents=True, exist_ok=True)


def write_text(path: Path, text: str, key: str = "output_dir") -> None:
    """Write a small file at once or not at all.

    Raises:
        UserError: naming ``key``, if it cannot be written.
    """
    with at_once(path, key) as partial, partial.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors at once or not at all.

    Raises:
        UserError: if they cannot be written.
    """
    with at_once(path) as partial:
        save_file(dict(tensors), partial)


@contextmanager
def locked(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Hold the lock file ``path``.

    Args:
        waiting: said where another process holds it.

    Raises:
        UserError: if it cannot be made.
    """
    lock = FileLock(path)
    with writing(path):
        try:
            lock.acquire(blocking=False)
        except TimeoutError:
            if waiting:
                log.info(waiting)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Store:
    """Entries ``root/STAGE/HASH/{tensors.safetensors, entry.json}``, each behind a file lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, stage: str, key: Mapping[str, Any], make: Callable[[], Entry]) -> Entry:
        """The entry for ``key``, made now if it is missing or damaged.

        Args:
            stage: name of the stage, a folder.
            key: everything that the result depends on, JSON-like.
            make: computes the tensors and a JSON-like remark to keep beside them.

        Raises:
            UserError: if the store cannot be written.
        """
        name = hash_of(key)
        folder = self.root / stage / name
        make_folder(folder.parent)
        waiting = f"{stage}: another run is computing it; waiting"
        with locked(folder.with_suffix(".lock"), waiting):
            found = self._read(stage, folder)
            if found is not None:
                log.info("%s: taken from the store (%s)", stage, name)
                return found
            log.info("%s: computing (%s)", stage, name)
            tensors, remark = make()
            self._write(folder, key, tensors, remark)
            return tensors, remark

    def kept(self, stage: str, name: str) -> Entry | None:
        """The entry with a hash, as a run's record names it; None if it is gone or damaged."""
        folder = self.root / stage / name
        if not folder.is_dir():
            return None
        with locked(folder.with_suffix(".lock")):
            return self._read(stage, folder)

    def _read(self, stage: str, folder: Path) -> Entry | None:
        if not folder.exists():
            return None
        try:
            entry = json.loads((folder / "entry.json").read_text())
            if _checksum(folder / "tensors.safetensors") == entry["sha256"]:
                return load_file(folder / "tensors.safetensors"), entry["remark"]
            reason = "its checksum does not match"
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = str(error)
        log.warning("%s: the store's entry %s is damaged (%s); rebuilding", stage, folder, reason)
        with writing(folder):
            shutil.rmtree(folder)
        return None

    def _write(
        self,
        folder: Path,
        key: Mapping[str, Any],
        tensors: dict[str, Tensor],
        remark: dict[str, Any],
    ) -> None:
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with writing(folder):
                partial.mkdir()
                save_file(tensors, partial / "tensors.safetensors")
                checksum = _checksum(partial / "tensors.safetensors")
                entry = {"key": key, "remark": remark, "sha256": checksum}
                write_text(partial / "entry.json", json.dumps(entry, indent=1))
                os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
