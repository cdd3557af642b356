"""Tables within a Markdown file, made from committed runs: ``unlearn report --readme FILE``.

A block says where its numbers come from, and all between its two marks is written by the report:

    <!-- table: table1 scale: demo runs: outputs/published/2026-11-23-cpu-2-cores/study -->
    <!-- end -->

Several folders are told apart by commas; of two runs of one cell and seed the later one counts.
The first mark may go on with ``columns: A | B`` and ``rows: A | B``, which show these alone, and
end with ``against: ROW``, which adds what the other rows differ from this one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from unlearn.config.tables import list_experiments, load_table
from unlearn.errors import UserError, choices
from unlearn.report.measures import measure
from unlearn.report.runs import find_runs
from unlearn.report.sheet import Entry, Sheet, build_table
from unlearn.report.text import ours, signed

T = TypeVar("T")

MARK = re.compile(
    r"(?P<mark><!-- table: (?P<table>\S+) scale: (?P<scale>\S+) runs: (?P<runs>\S+)"
    r"(?: columns: (?P<columns>[^\n]+?))?(?: rows: (?P<rows>[^\n]+?))?"
    r"(?: against: (?P<against>[^\n]+?))? -->\n)(?P<old>.*?)(?P<end><!-- end -->)",
    re.DOTALL,
)


def refresh(text: str, root: Path) -> str:
    """A text with every marked block made from its runs, whose folders are relative to ``root``.

    Raises:
        UserError: if there is no block, or one names what there is not.
    """
    if text.count("<!-- table:") != len(MARK.findall(text)) or not MARK.search(text):
        raise UserError(
            "--readme", "needs <!-- table: NAME scale: SCALE runs: DIR --> and <!-- end --> marks"
        )

    def block(found: re.Match[str]) -> str:
        if found["table"] not in list_experiments():
            raise choices("table", found["table"], list_experiments())
        table = load_table(found["table"])
        part = replace(
            table,
            columns=picked("columns", table.columns, found["columns"]),
            rows=picked("rows", table.rows, found["rows"]),
        )
        folders = [root / name for name in found["runs"].split(",")]
        sheet = build_table(part, found["scale"], find_runs(folders))
        return f"{found['mark']}{compact(sheet, found['against'])}{found['end']}"

    return MARK.sub(block, text)


def picked(kind: str, there: dict[str, T], names: str | None) -> dict[str, T]:
    """Those of some columns or rows that a mark names, ``A | B``, in its order; without names all.

    Raises:
        UserError: if there is none of a name.
    """
    if names is None:
        return there
    wanted = [name.strip() for name in names.split("|")]
    for name in wanted:
        if name not in there:
            raise choices(kind, name, there)
    return {name: there[name] for name in wanted}


def compact(sheet: Sheet, against: str | None = None) -> str:
    """A sheet as a small Markdown table: rows and columns that have runs, the others named below.

    Args:
        sheet: a table filled from runs.
        against: a row whose difference the others show.

    Raises:
        UserError: if there is no such row.
    """
    rows, columns, measures = sheet.table.rows, sheet.table.columns, sheet.table.measures
    if against is not None and against not in rows:
        raise choices("against", against, rows)
    run = {place for place, filled in sheet.filled.items() if filled.runs}
    shown = [r for r in rows if any(row == r for row, _ in run)]
    places = [(c, m) for c in columns for m in measures if any(column == c for _, column in run)]

    def cell(row: str, column: str, key: str) -> str:
        entry = sheet.entries.get((row, column, key))
        if entry is None:
            return ""
        parts = [ours(entry) or f"-- {sheet.status(row, column)}"]
        if entry.paper is not None:
            parts.append(str(entry.paper))
        other = sheet.entries.get((against or "", column, key))
        if other is not None and row != against:
            parts.append(_gap(entry, other))
        return " / ".join(p for p in parts if p)

    heads = [f"{column}: {measure(key).label}" for column, key in places]
    lines = [
        "| | " + " | ".join(heads) + " |",
        "|---" * (len(places) + 1) + "|",
        *(f"| {r} | " + " | ".join(cell(r, c, m) for c, m in places) + " |" for r in shown),
    ]
    return "\n".join([*lines, "", *_below(sheet, shown, [c for c, _ in places], against), ""])


def _gap(entry: Entry, other: Entry) -> str:
    if entry.value is None or other.value is None:
        return ""
    return signed(entry.value.mean - other.value.mean, entry.decimals)


def _below(sheet: Sheet, rows: list[str], columns: list[str], against: str | None) -> list[str]:
    """What the cells hold, what they rest on, and what is not there."""
    parts = ["mean ± std over seeds (their number)"]
    parts += ["the paper's value"] if sheet.in_paper else []
    parts += [f"difference from {against}"] if against else []
    units = sorted({measure(m).unit for m in sheet.table.measures} - {""})
    names = (*sheet.table.columns, *sheet.table.rows)
    left = [name for name in names if name not in columns and name not in rows]
    keys = sorted({text.split()[0] for f in sheet.filled.values() for text in f.departures})
    return [
        f"- Each cell{', in ' + units[0] if units else ''}: {' / '.join(parts)}. {sheet.facts}",
        *(f"- {line}" for line in sheet.origins),
        *([f"- Not run: {', '.join(left)}."] if left else []),
        *([f"- Run with other settings than conf/ has now: {', '.join(keys)}."] if keys else []),
    ]
