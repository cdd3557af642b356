"""Finished and failed runs, found as JSON files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from unlearn.errors import UserError
from unlearn.relearning import INTENTIONS


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
    def proxy(self) -> str:
        """Where its samples come from: ``inversion`` or what stands in for it."""
        return str(self.settings.get("proxy.name") or "inversion")

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

    @property
    def version(self) -> str:
        """Of the package, with the commit; ``+`` where files differed from it."""
        version = self.content.get("versions", {}).get("few-shot-unlearning", "?")
        commit, dirty = self.content.get("commit"), self.content.get("dirty")
        return f"{version} (commit {commit}{'+' if dirty else ''})" if commit else str(version)

    @property
    def threads(self) -> int | None:
        """Of the CPU; None on a GPU, where they change nothing, or if unknown."""
        threads = self.content.get("threads")
        on_cpu = str(self.content.get("hardware", "")).startswith("CPU")
        return int(threads) if on_cpu and threads is not None else None

    @property
    def precision(self) -> str | None:
        """Of its networks while they were fitted, such as ``float32``."""
        return self.content.get("precision")

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Key and version of each stage that made it; empty if the run does not say."""
        return dict(self.content.get("stages", {}))

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
            content = modern(content)
            run = Run(path, content, flat(content["config"]))
            (found.runs if isinstance(content.get("metrics"), dict) else found.failures).append(run)
    return found


def modern(content: dict[str, Any]) -> dict[str, Any]:
    """What a file of an older version says, as one of today would say it.

    Up to version 0.3 the form of intention ``neg`` was a setting of relearning and of the oracle
    too, an oracle's intention was a name, and the commit, the precision and the number of threads
    were not fields of their own. ``tug_of_war`` had two factors then, on test images: it is left
    out.
    """
    config, versions = dict(content["config"]), dict(content.get("versions", {}))
    if "relearning" in config:
        config["relearning"] = dict(config["relearning"])
        config["relearning"].pop("negative", None)
    if "negative" in (config.get("baseline") or {}):
        config["baseline"] = dict(config["baseline"])
        form = config["baseline"].pop("negative")
        name = config["intention"]["name"]
        intention = INTENTIONS[name]
        formed = any(f.name == "oracle_form" for f in fields(intention))
        made = intention(**({"oracle_form": form} if formed else {}))
        config["intention"] = asdict(made.for_oracle())
    then: dict[str, Any] = {}
    hardware = str(content.get("hardware", "?")).replace("1 threads", "1 thread")
    if "commit" in versions:
        commit = str(versions.pop("commit") or "")
        then |= {"commit": commit.rstrip("+") or None, "dirty": commit.endswith("+")}
    if found := re.search(r"(\d+) thread", hardware):
        then["threads"] = int(found[1])
    if "computed_in" in content:
        then["precision"] = content["computed_in"]
    now = {"config": config, "versions": versions, "hardware": hardware}
    metrics = content.get("metrics")
    if isinstance(metrics, dict) and "oracle_abs_train_D_e" not in metrics:
        now["metrics"] = {k: v for k, v in metrics.items() if k != "tug_of_war"}
    return {**then, **content, **now}


def flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """``{"model": {"norm": "batch"}}`` as ``{"model.norm": "batch"}``."""
    return dict(_leaves(nested, ""))


def _leaves(nested: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
