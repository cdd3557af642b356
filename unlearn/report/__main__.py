"""``unlearn report``: the paper's tables and figures from the runs' metrics files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unlearn.config import CONF
from unlearn.config.tables import list_experiments
from unlearn.engine.store import make_folder, write_text
from unlearn.errors import UserError, choices
from unlearn.program import program
from unlearn.report.html import page
from unlearn.report.readme import refresh
from unlearn.report.runs import find_runs
from unlearn.report.sheet import build
from unlearn.report.text import latex, long_form, markdown

DESCRIPTION = "The paper's tables and figures from the runs' metrics files."


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the reports and print their paths; returns 0, or 2 for bad input."""
    given = _parser().parse_args(arguments)
    try:
        if given.readme is not None:
            written = [renew(given.readme)]
        else:
            folders = given.runs or [Path("outputs/runs")]
            written = report(folders, given.scale, given.out, given.tables)
        for path in written:
            print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def report(
    folders: Sequence[Path], scale: str | None, out: Path, tables: Sequence[str] | None
) -> list[Path]:
    """Write ``report-SCALE.html``, ``.md``, ``.tex`` and ``.csv``.

    Args:
        folders: where the runs' files lie, at any depth.
        scale: None is every scale that there are runs of.
        out: folder to write into.
        tables: names of experiments; None is all.

    Raises:
        UserError: if an argument cannot be.
    """
    scales = sorted(p.stem for p in (CONF / "scale").glob("*.yaml"))
    if scale is not None and scale not in scales:
        raise choices("--scale", scale, scales)
    for name in tables or ():
        if name not in list_experiments():
            raise choices("--tables", name, list_experiments())
    found = find_runs(folders)
    written = []
    for each in [scale] if scale else found.scales or ["paper"]:
        sheets = [build(name, each, found) for name in tables or list_experiments()]
        texts = {
            "html": page(sheets, each, len(found.skipped)),
            "md": markdown(sheets, len(found.skipped)),
            "tex": latex(sheets),
            "csv": long_form(sheets),
        }
        for suffix, text in texts.items():
            path = out / f"report-{each}.{suffix}"
            make_folder(out, "--out")
            write_text(path, text, "--out")
            written.append(path)
    return written


def renew(readme: Path) -> Path:
    """Write a Markdown file's tables anew; what its marks name is relative to its folder.

    Raises:
        UserError: if it cannot be read or written, or a mark is wrong.
    """
    try:
        text = readme.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError("--readme", f"cannot be read ({error})") from error
    write_text(readme, refresh(text, readme.parent), "--readme")
    return readme


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("report"), description=DESCRIPTION)
    parser.add_argument(
        "--runs",
        action="append",
        type=Path,
        metavar="DIR",
        help="folder of metrics files, searched at any depth; may be repeated [outputs/runs]",
    )
    parser.add_argument("--scale", help="paper or demo [every scale that there are runs of]")
    parser.add_argument("--out", type=Path, default=Path("outputs/report"), metavar="DIR")
    parser.add_argument("--tables", nargs="+", metavar="NAME", help="such as table1 fig4 [all]")
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="instead, write this file's marked tables anew, from the runs that the marks name",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
