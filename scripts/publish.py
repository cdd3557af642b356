"""Copy what is worth keeping of finished runs to a folder that can be committed, and back.

    python -m scripts.publish outputs outputs/published/DAY
    python -m scripts.publish --back outputs/published/DAY outputs

Kept is each run's ``metrics.json``: a sweep elsewhere finds those runs finished. With
``--originals`` the original models that they rest on come too, megabytes each, so that it goes on
with the same ones; without them it trains its own, and the report says so where they differ.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from unlearn.engine.store import at_once, make_folder

ORIGINALS = Path("store/training")


def publish(
    output: Path, published: Path, scale: str | None = None, with_originals: bool = False
) -> int:
    """Copy the finished runs of an output folder.

    Args:
        scale: only runs of it.
        with_originals: whether the models that they rest on are copied too.

    Returns:
        The number of runs.
    """
    originals, number = set(), 0
    for source in sorted((output / "runs").glob("*/*/*/metrics.json")):
        record = json.loads(source.read_text())
        if scale not in (None, record["scale"]):
            continue
        leaf = source.parent.relative_to(output / "runs")
        copy(source, published / "runs" / leaf.with_name(f"{leaf.name}.json"))
        number += 1
        if with_originals and (original := record["stages"].get("training")):
            originals.add(original["key"])
    for key in sorted(originals):
        copy_entry(output / ORIGINALS / key, published / ORIGINALS / key)
    return number


def give_back(published: Path, output: Path) -> int:
    """Copy published runs and originals to an output folder, unless they are there.

    Returns:
        The number of runs.
    """
    sources = sorted((published / "runs").glob("*/*/*.json"))
    for source in sources:
        leaf = source.relative_to(published / "runs").with_suffix("")
        copy(source, output / "runs" / leaf / "metrics.json", keep=True)
    for entry in sorted((published / ORIGINALS).glob("*")):
        copy_entry(entry, output / ORIGINALS / entry.name)
    return len(sources)


def copy(source: Path, to: Path, keep: bool = False) -> None:
    """Copy a file at once or not at all.

    Args:
        keep: whether a file that is there stays.
    """
    if keep and to.exists():
        return
    make_folder(to.parent)
    with at_once(to) as partial:
        shutil.copyfile(source, partial)


def copy_entry(source: Path, to: Path) -> None:
    """Copy an entry of the store, if it is there; the file that makes it valid last."""
    for name in ("tensors.safetensors", "entry.json"):
        if (source / name).is_file():
            copy(source / name, to / name, keep=True)


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m scripts.publish", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--back", action="store_true", help="from a published folder to outputs")
    parser.add_argument("--scale", help="only runs of this scale")
    parser.add_argument("--originals", action="store_true", help="the models they rest on, too")
    given = parser.parse_args(arguments)
    if not (given.source / "runs").is_dir():
        parser.error(f"{given.source} has no folder runs")
    if given.back:
        number = give_back(given.source, given.to)
    else:
        number = publish(given.source, given.to, given.scale, given.originals)
    print(f"{number} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
