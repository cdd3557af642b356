"""One self-contained HTML page: tables, charts and pictures, nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from unlearn.report.answers import Answers, answers
from unlearn.report.charts import predictions, strips
from unlearn.report.scatter import scatter
from unlearn.report.sheet import LEGEND, NEARER, NOT_PAPER, OUTSIDE, Entry, Sheet
from unlearn.report.text import SUBSCRIPT, difference, failures, header, ours, skipped_note

PICTURES = {
    "confusing": "Images that the original model confuses",
    "samples": "Generated samples, one row a condition",
    "filtration": "Refined samples; framed red: target-like",
    "knee": "Sorted distances to D_e and the threshold at the knee",
}
FIGURES = {"fig1": ("confusing",), "fig3": ("filtration", "knee")}
TABLES = ("samples", "knee")
WATCHED = "track_predictions=true"
EXTRA_WORDS = (
    "Mean ± standard deviation over seeds (number of seeds); of the tug of war mean [95 % "
    "t-interval], which of 3 seeds is 2.5 standard deviations wide on each side, of 2 seeds 9. The "
    "paper has no such numbers."
)
MARKS = {OUTSIDE: "outside the paper's band", NEARER: "nearer to the oracle than the paper's"}


@dataclass
class Picture:
    """A PNG and what it shows; runs that share an inversion share its pictures."""

    name: str
    data: bytes
    rows: dict[str, list[str]]  # by column and seed

    @property
    def words(self) -> str:
        """What it shows and of which cells."""
        cells = "; ".join(f"{where}: {', '.join(rows)}" for where, rows in self.rows.items())
        return f"{PICTURES[self.name]}. {cells}."


def page(sheets: Sequence[Sheet], scale: str, skipped: int) -> str:
    """The whole page."""
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    legend = "".join(f"<li>{named(text)}</li>" for text in (*LEGEND, *skipped_note(skipped)))
    contents = "".join(_contents(sheet) for sheet in sheets)
    away = "" if scale == "paper" else NOT_PAPER
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Few-shot unlearning: report, scale {escape(scale)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>Few-shot unlearning by model inversion</h1>
<p>The paper's tables and figures at scale <b>{escape(scale)}</b>, from the runs' own files.
{away}</p>
</header>
<main>
<section class="guide">
<nav aria-label="Contents"><table>
<thead><tr><th scope="col">Contents</th><th scope="col">Cells run</th>
<th scope="col">Failed runs</th></tr></thead>
<tbody>{contents}</tbody></table></nav>
<div><h2>How to read the tables</h2><ul>{legend}</ul></div>
</section>
{"".join(section(sheet) for sheet in sheets)}
</main>
</body>
</html>
"""


def _contents(sheet: Sheet) -> str:
    have, of = sheet.counts
    link = f'<a href="#{sheet.table.name}">{sheet.label}</a> {named(sheet.table.title)}'
    return (
        f'<tr><th scope="row">{link}</th><td>{have} of {of}</td><td>{len(sheet.failures)}</td></tr>'
    )


def section(sheet: Sheet) -> str:
    """One table or figure with all that belongs to it."""
    name = sheet.table.name
    parts = [
        f'<section id="{name}" class="sheet">',
        f"<h2>{sheet.label}: {named(sheet.table.title)}</h2>",
    ]
    curves = _curves(sheet)
    shown = pictures(sheet, FIGURES.get(name, ()))
    if curves:
        parts.append(f'<div class="charts">{"".join(curves)}</div>')
    if shown:
        parts.append(f'<div class="pictures">{"".join(map(_figure, shown))}</div>')
    parts.append(_table(sheet, sheet.table.measures, sheet.facts))
    failed = "".join(f"<li><b>{named(n)}</b>: {escape(e)}</li>" for n, e in failures(sheet))
    if failed:
        parts.append(f'<div class="failures"><h3>Failed runs</h3><ul>{failed}</ul></div>')
    remarks = "".join(f"<li>{named(remark)}</li>" for remark in sheet.remarks)
    if remarks:
        parts.append(f'<ul class="remarks">{remarks}</ul>')
    if sheet.extras:
        inside = _table(sheet, sheet.extras, EXTRA_WORDS)
        parts.append(_details("Distance to the oracle, attacks, what is left of D_e", inside))
    if answered := "".join(map(_answers, answers(sheet))):
        parts.append(_details(named("Answers on the test D_e by class"), answered))
    if name not in FIGURES and not curves:
        if points := scatter(sheet):
            words = "D_r against D_e. Star: the oracle; cross: the original; faint dots: seeds."
            parts.append(f'<div class="charts">{_chart(points, words)}</div>')
        charts = [strips(sheet, column) for column in sheet.table.columns]
        words = "Dots: seeds; bar: their mean"
        words += "; diamond: the paper ± its std." if sheet.in_paper else "."
        figures = "".join(
            _chart(chart, f"{column}. {words}")
            for column, chart in zip(sheet.table.columns, charts, strict=True)
            if chart
        )
        if figures:
            parts.append(_details("Every seed", f'<div class="charts">{figures}</div>', True))
        some = pictures(sheet, TABLES)
        if some:
            inside = f'<div class="pictures">{"".join(map(_figure, some))}</div>'
            parts.append(_details("Pictures", inside))
    return "\n".join([*parts, "</section>", ""])


def pictures(sheet: Sheet, names: Sequence[str]) -> list[Picture]:
    """The named pictures of each cell's first run that has them, equal ones once."""
    kept: dict[tuple[str, bytes], Picture] = {}
    for name in names:
        for filled in sheet.filled.values():
            run = next((run for run in filled.runs if run.picture(name)), None)
            path = run.picture(name) if run is not None else None
            if run is None or path is None:
                continue
            data = path.read_bytes()
            where = filled.cell.column + ("" if run.seed is None else f", seed {run.seed}")
            picture = kept.setdefault((name, data), Picture(name, data, {}))
            picture.rows.setdefault(where, []).append(filled.cell.row)
    return list(kept.values())


def named(text: str) -> str:
    """Escaped text with the subscripts of names and the marks explained."""
    text = SUBSCRIPT.sub(r"\1<sub>\2</sub>", escape(text))
    for sign, words in MARKS.items():
        text = text.replace(sign, f'<abbr title="{words}">{sign}</abbr>')
    return text


def _table(sheet: Sheet, measures: Sequence[str], caption: str) -> str:
    columns = sheet.table.columns
    spans = "".join(
        f'<th scope="colgroup" colspan="{len(measures)}">{named(c)}</th>' for c in columns
    )
    heads = "".join(f'<th scope="col">{named(header(m))}</th>' for _ in columns for m in measures)
    rows = "".join(
        f'<tr><th scope="row">{named(row)}</th>'
        + "".join(_cell(sheet, row, c, m) for c in columns for m in measures)
        + "</tr>\n"
        for row in sheet.table.rows
    )
    groups = f'<colgroup span="{len(measures)}"></colgroup>' * len(columns)
    words = escape(f"{sheet.label}, scrolls sideways")
    title = escape(f"{sheet.label}: {sheet.table.title}")
    return f"""<figure><figcaption>{named(caption)}</figcaption>
<div class="scroll" role="region" aria-label="{words}" tabindex="0">
<table aria-label="{title}">
<colgroup></colgroup>{groups}
<thead><tr><td rowspan="2"></td>{spans}</tr><tr>{heads}</tr></thead>
<tbody>
{rows}</tbody></table></div></figure>"""


def _answers(given: Answers) -> str:
    heads = "".join(f'<th scope="col">{escape(c)}</th>' for c in given.classes)
    rows = "".join(
        f'<tr><th scope="row">{named(row)}</th>'
        + "".join(f"<td>{number:.4g}</td>" for number in numbers)
        + "</tr>\n"
        for row, numbers in given.rows.items()
    )
    words = f"{given.column}: how many of the test D_e each model answers with each class"
    return f"""<figure><figcaption>{named(words)}; means over seeds.</figcaption>
<div class="scroll" role="region" aria-label="{escape(words)}, scrolls sideways" tabindex="0">
<table aria-label="{escape(words)}">
<thead><tr><td></td>{heads}</tr></thead>
<tbody>
{rows}</tbody></table></div></figure>"""


def _cell(sheet: Sheet, row: str, column: str, key: str) -> str:
    entry: Entry | None = sheet.entries.get((row, column, key))
    if entry is None:
        return '<td class="none"></td>'
    status = "" if entry.value else sheet.status(row, column)
    upper = f"<b>{ours(entry)}</b>" if entry.value else f"<i>-- {status}</i>"
    paper = f"paper {entry.paper}" if entry.paper else ""
    gap = f" <span>{difference(entry)}</span>{named(entry.marks)}" if entry.value and paper else ""
    kind = f' class="{status.replace(" ", "-")}"' if status else ""
    return f"<td{kind}>{upper}<small>{paper}{gap}</small></td>"


def _curves(sheet: Sheet) -> list[str]:
    charts = []
    for filled in sheet.filled.values():
        run = next((run for run in filled.runs if run.content.get("predictions")), None)
        if run is None or WATCHED not in filled.cell.overrides:
            continue
        classes = [str(name) for name in run.content["classes"]]
        for stage, given in run.content["predictions"].items():
            title = f"{filled.cell.column}, {filled.cell.row}: {stage}"
            words = f"{filled.cell.column}: what {filled.cell.row} answers on the test D_e"
            charts.append(_chart(predictions(given, classes, title), f"{words} ({stage})."))
    return charts


def _chart(chart: str, words: str) -> str:
    return (
        f'<figure><div class="scroll">{chart}</div><figcaption>{named(words)}</figcaption></figure>'
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode()
    image = f'<img alt="{escape(picture.words)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{named(picture.words)}</figcaption></figure>"


def _details(summary: str, inside: str, opened: bool = False) -> str:
    return f"<details{' open' * opened}><summary>{summary}</summary>{inside}</details>"
