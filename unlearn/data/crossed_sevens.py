"""Which MNIST images are sevens with a bar: the packaged annotation, applied by content."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path

from unlearn.errors import UserError

SPLITS = ("train", "test")


def load_annotation(path: str | None) -> frozenset[str]:
    """Digests (``unlearn.data.digests``) of the crossed sevens of both MNIST sets.

    Args:
        path: another list in the packaged file's format (scripts/annotate.py writes one), or None.

    Raises:
        UserError: if the file cannot be read or lacks the digests.
    """
    listed = _parse(_read(path), path)["digests"]
    return frozenset(d for split in SPLITS for d in listed[split])


def annotation_identity(path: str | None) -> str:
    """A hash of the list's text."""
    return hashlib.sha256(_read(path).encode()).hexdigest()[:16]


@cache
def _read(path: str | None) -> str:
    if path is None:
        return resources.files("unlearn.data").joinpath("crossed_sevens.json").read_text()
    try:
        return Path(path).read_text()
    except OSError as error:
        raise UserError("scenario.annotation", f"{path!r} cannot be read ({error})") from error


def _parse(text: str, path: str | None) -> dict[str, dict[str, list[str]]]:
    try:
        content = json.loads(text)
        valid = all(isinstance(content["digests"][s], list) for s in SPLITS)
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise UserError(
            "scenario.annotation",
            f"{path!r} is no list of digests; scripts/annotate.py makes one from MNIST indices",
        )
    return dict(content)
