"""Finished and failed runs, found as JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn.errors import UserError


@dataclass(frozen=True)
class Run:
    """One run: its file, what that says, and the settings it depends on by dotted key."""

    path: Path
    content: dict[str, Any]
    settings: dict[str, Any]

    @property
    def method(self) -> str:
        """``ours`` or the baseline's name."""
        return str(self.settings.get("baseline.name") or "ours")

    @property
    def seed(self) -> int | None:
        """None where the result does not depend on it."""
        seed = self.content.get("seed", self.settings.get("seed"))
        return None if seed is None else int(seed)

    @property
    def scale(self) -> str:
        """Scale it ran at."""
        return str(self.settings.get("scale"))

    @property
    def finished(self) -> str:
        """ISO time, or nothing."""
        return str(self.content.get("finished", ""))

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured; empty for a failed run."""
        return dict(self.content.get("metrics", {}))

    def picture(self, name: str) -> Path | None:
        """A picture of its run folder, if it is there."""
        path = self.path.parent / "pictures" / f"{name}.png"
        return path if self.path.name == "metrics.json" and path.is_file() else None


@dataclass
class Found:
    """What a search found. ``skipped`` are results that no table can place: old or damaged."""

    runs: list[Run] = field(default_factory=list)
    failures: list[Run] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)

    @property
    def scales(self) -> list[str]:
        """The scales that there are runs of, failed ones too."""
        return sorted({run.scale for run in (*self.runs, *self.failures)})


def find_runs(folders: Sequence[Path]) -> Found:
    """Every ``metrics.json``, ``error.json`` and their likes below some folders.

    Raises:
        UserError: if a folder does not exist.
    """
    found = Found()
    files = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError("--runs", f"{folder} is not a folder; runs are kept in OUTPUT_DIR/runs")
        files.update({path.resolve(): path for path in folder.rglob("*.json")})
    for path in sorted(files.values()):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found.skipped.append(path)
            continue
        if not isinstance(content, dict) or not content.keys() & {"metrics", "error"}:
            continue
        if not isinstance(content.get("config"), dict):
            found.skipped.append(path)
        else:
            run = Run(path, content, flat(content["config"]))
            (found.runs if isinstance(content.get("metrics"), dict) else found.failures).append(run)
    return found


def flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model": {"norm": "batch"}}`` as ``{"model.norm": "batch"}``."""
    return dict(_leaves(nested, ""))


def _leaves(nested: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
