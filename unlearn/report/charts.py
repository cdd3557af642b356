"""Charts as SVG text that takes its ink from the page: ``currentColor``."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from zlib import crc32

from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from unlearn.report.sheet import Sheet
from unlearn.report.text import SUBSCRIPT, header

OURS, PAPER = "#2f81d6", "#d9730d"
# Text stays text, and the same values give the same file.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "mathtext.default": "regular",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
}
INK = "#000000"
SHOWN_SHARE = 0.02


def strips(sheet: Sheet, column: str) -> str | None:
    """Every seed's value, their mean and the paper's, a line each row and a field each measure.

    None if there is no run to show.
    """
    measures = sheet.table.measures
    rows = [
        row
        for row in sheet.table.rows
        if any(
            (e := sheet.entries.get((row, column, m))) and (e.value or e.paper) for m in measures
        )
    ]
    if not any(sheet.entries[row, column, m].value for row in rows for m in measures):
        return None
    with rc_context(STYLE):
        height = 0.75 + 0.19 * len(rows)
        figure = Figure(figsize=(1.5 + 2.1 * len(measures), height), layout="constrained")
        fields = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for axes, key in zip(fields, measures, strict=True):
            for y, row in enumerate(rows):
                entry = sheet.entries[row, column, key]
                if entry.paper is not None:
                    mean, std = float(entry.paper.mean), float(entry.paper.std or 0)
                    axes.errorbar(mean, y, xerr=std, color=PAPER, fmt="D", ms=4, mfc="none", lw=1)
                if entry.value is not None:
                    values = [value for _, value in entry.value.by_seed]
                    axes.plot(values, [y] * len(values), "o", color=OURS, ms=4, alpha=0.55, mew=0)
                    axes.plot(entry.value.mean, y, "|", color=OURS, ms=10, mew=1.6)
            axes.set_title(subscripted(header(key)), fontsize=8)
            axes.margins(x=0.08, y=0.6 / max(len(rows), 1))
            axes.grid(axis="both", lw=0.4, alpha=0.25)
        fields[0].set_yticks(range(len(rows)), [subscripted(row) for row in rows])
        fields[0].invert_yaxis()
        words = f"{sheet.label}, {column}: values of every seed and their mean"
        words += ", and the paper's values" if sheet.in_paper else ""
        return svg(figure, words)


def predictions(stage: Mapping[str, Any], classes: Sequence[str], title: str) -> str:
    """Figure 4: which answers the test D_e gets over the epochs of a stage.

    Args:
        stage: ``epoch`` (T,) and ``counts`` (T, classes).
        classes: their names.
        title: what the chart is of.
    """
    totals = [max(sum(counts), 1) for counts in stage["counts"]]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.subplots()
        for c, name in enumerate(classes):
            shares = [
                counts[c] / total for counts, total in zip(stage["counts"], totals, strict=True)
            ]
            if max(shares) >= SHOWN_SHARE:
                colour = colormaps["tab10"](c % 10)
                percent = [100 * share for share in shares]
                axes.plot(stage["epoch"], percent, "o-", ms=2.5, lw=1.2, color=colour, label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(subscripted("answers on the test D_e (%)"))
        axes.set_ylim(-3, 103)
        axes.grid(lw=0.4, alpha=0.25)
        axes.set_title(subscripted(title), fontsize=8)
        figure.legend(loc="outside right center", frameon=False, title="answer")
        return svg(figure, f"{title}: share of each answer on the test D_e over the epochs")


def subscripted(text: str) -> str:
    """A name such as ``D_e`` or ``Ours_std``, its subscript set as one."""
    return SUBSCRIPT.sub(r"\1$_{\\mathrm{\2}}$", text)


def svg(figure: Figure, words: str) -> str:
    """A figure as an ``<svg>`` element, described in words, its black replaced by the text's."""
    file = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' height="[\d.]+pt"', "", text, count=1)
    own = f"c{crc32(words.encode()):x}-"  # many charts share a page: each has ids of its own
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{own}", text)
    described = f'<svg role="img" aria-label="{escape(words)}" class="chart"'
    return text.replace("<svg", described, 1)
