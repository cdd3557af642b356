"""Values as text, and the tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from unlearn.report.measures import measure
from unlearn.report.sheet import LEGEND, NEARER, OUTSIDE, Entry, Sheet

FIELDS = (
    *("table", "row", "column", "measure", "n", "mean", "std"),
    *("paper_mean", "paper_std", "difference", "mark", "seeds"),
)
# Names that are set with a subscript.
SUBSCRIPT = re.compile(r"\b(D|Ours|Oracle|Original)_([A-Za-z-]+)")
TEX = {
    **{sign: f"\\{sign}" for sign in "%&#${}_"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"±": "$\\pm$", "\u2212": "$-$", OUTSIDE: "$^{\\dagger}$", NEARER: "$^{\\star}$"},
}


def ours(entry: Entry) -> str:
    """``96.6 ± 0.7 (3)``; with an interval ``0.951 [0.902, 1.000] (3)``."""
    if entry.value is None:
        return ""
    d, value = entry.decimals, entry.value
    std = "" if value.std is None else f" ± {value.std:.{d}f}"
    if value.interval is not None:
        std = f" [{value.interval[0]:.{d}f}, {value.interval[1]:.{d}f}]"
    return f"{value.mean:.{d}f}{std} ({len(value.by_seed)})"


def difference(entry: Entry) -> str:
    """``-0.4``, with a true minus sign."""
    return "" if entry.difference is None else signed(entry.difference, entry.decimals)


def signed(number: float, decimals: int) -> str:
    """``+0.4``, ``-0.4`` with a true minus sign, ``0.0``."""
    rounded = round(number, decimals) + 0.0  # no minus zero
    sign = "+" if rounded else ""
    return f"{rounded:{sign}.{decimals}f}".replace("-", "\u2212")


def header(key: str) -> str:
    """A measure's label with its unit."""
    kind = measure(key)
    return f"{kind.label} ({kind.unit})" if kind.unit else kind.label


def markdown(sheets: Sequence[Sheet], skipped: int) -> str:
    """All sheets as GitHub's Markdown; ``skipped`` results have no place in them."""
    lines = ["# The paper's tables", "", *(f"- {text}" for text in LEGEND)]
    lines += [*(f"- {text}" for text in skipped_note(skipped)), ""]
    for sheet in sheets:
        places = [(c, m) for c in sheet.table.columns for m in sheet.table.measures]
        lines += [f"## {sheet.label}: {sheet.table.title}", "", sheet.facts, ""]
        lines.append("| | " + " | ".join(f"{c}: {header(m)}" for c, m in places) + " |")
        lines.append("|---" * (len(places) + 1) + "|")
        for row in sheet.table.rows:
            cells = [_markdown_cell(sheet, row, c, m) for c, m in places]
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        lines.append("")
        lines += [f"- failed: {name}: {error}" for name, error in failures(sheet)]
        lines += [f"- {remark}" for remark in sheet.remarks]
        lines.append("")
    return "\n".join(lines)


def skipped_note(skipped: int) -> list[str]:
    """About results that no table can place, if there are any."""
    if not skipped:
        return []
    return [f"left aside: {skipped} JSON files that are damaged or say no configuration"]


def failures(sheet: Sheet) -> list[tuple[str, str]]:
    """Which runs failed, and of what."""
    return [
        (
            f"{filled.cell.row}, {filled.cell.column}"
            + ("" if run.seed is None else f", seed {run.seed}"),
            str(run.content["error"]),
        )
        for filled, run in sheet.failures
    ]


def _markdown_cell(sheet: Sheet, row: str, column: str, key: str) -> str:
    entry = sheet.entries.get((row, column, key))
    if entry is None:
        return ""
    parts = [ours(entry) or f"-- {sheet.status(row, column)}"]
    if entry.paper is not None:
        parts.append(f"paper {entry.paper}")
    if entry.difference is not None:
        parts.append(f"{difference(entry)} {entry.marks}".strip())
    return "<br>".join(parts)


def latex(sheets: Sequence[Sheet]) -> str:
    """All sheets as LaTeX tables for ``\\usepackage{booktabs}``, each with its caption."""
    lines = ["% \\usepackage{booktabs}"]
    for sheet in sheets:
        columns, measures = list(sheet.table.columns), sheet.table.measures
        width = len(measures)
        facts = " ".join([sheet.facts, *sheet.origins])
        caption = _tex(f"{sheet.table.title}. {facts} Each cell: {'; '.join(LEGEND)}.")
        lines += [
            "\\begin{table*}[t]",
            "\\centering\\scriptsize",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{sheet.table.name}}}",
            f"\\begin{{tabular}}{{l*{{{len(columns) * width}}}{{c}}}}",
            "\\toprule",
            "".join(f" & \\multicolumn{{{width}}}{{c}}{{{_tex(c)}}}" for c in columns) + " \\\\",
            "".join(
                f"\\cmidrule(lr){{{2 + i * width}-{1 + (i + 1) * width}}}"
                for i in range(len(columns))
            ),
            "".join(f" & {_tex(header(m))}" for _ in columns for m in measures) + " \\\\",
            "\\midrule",
        ]
        for row in sheet.table.rows:
            cells = [_latex_cell(sheet, row, c, m) for c in columns for m in measures]
            lines.append(f"{_tex(row)} & " + " & ".join(cells) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table*}", ""]
    return "\n".join(lines)


def _latex_cell(sheet: Sheet, row: str, column: str, key: str) -> str:
    entry = sheet.entries.get((row, column, key))
    if entry is None:
        return ""
    upper = _tex(ours(entry)) or f"-- {sheet.status(row, column)}"
    if entry.paper is None:
        return upper
    below = _tex(f"{entry.paper}; {difference(entry)}" if entry.value else f"{entry.paper}")
    return f"\\shortstack{{{upper} \\\\ \\tiny {below}{_tex(entry.marks)}}}"


def _tex(text: str) -> str:
    parts, end = [], 0
    for name in SUBSCRIPT.finditer(text):
        parts.append(_escape(text[end : name.start()]))
        parts.append(f"${name[1]}_{name[2]}$" if name[1] == "D" else _named(*name.groups()))
        end = name.end()
    return "".join([*parts, _escape(text[end:])])


def _named(name: str, subscript: str) -> str:
    return f"{name}$_{{\\mathrm{{{subscript}}}}}$"


def _escape(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in text)


def long_form(sheets: Sequence[Sheet]) -> str:
    """All values as CSV, one line each; the measures below the tables have lines of their own."""
    lines = [
        {
            "table": sheet.table.name,
            "row": row,
            "column": column,
            "measure": key,
            **_numbers(entry),
            "mark": _marks(entry) if entry.value else sheet.status(row, column),
        }
        for sheet in sheets
        for (row, column, key), entry in sheet.entries.items()
    ]
    table = pd.DataFrame(lines, columns=FIELDS).round(6)
    return str(table.to_csv(index=False, lineterminator="\n"))


def _numbers(entry: Entry) -> dict[str, Any]:
    value, paper = entry.value, entry.paper
    by_seed = value.by_seed if value else ()
    return {
        "n": len(by_seed),
        "mean": value and value.mean,
        "std": value and value.std,
        "paper_mean": paper and str(paper.mean),
        "paper_std": paper and paper.std and str(paper.std),
        "difference": entry.difference,
        "seeds": " ".join(str(seed) for seed, _ in by_seed if seed is not None),
    }


def _marks(entry: Entry) -> str:
    return " ".join(["outside"] * entry.outside + ["nearer"] * entry.nearer)
