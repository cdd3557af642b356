"""D_r against D_e of every method of a table, the oracle marked; as SVG text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unlearn.report.charts import INK, OURS, STYLE, subscripted, svg
from unlearn.report.sheet import Sheet

X, Y = "D_e", "D_r"
ACROSS = 3  # panels beside each other
# Of ours, by recipe and intention; of the others; the shots have shapes.
BLUES = (OURS, "#0b3d91", "#7a5cd6", "#00a0b0", "#8fb8ea", "#5b6f9e")
OTHERS = tuple(colormaps["Set1"](i) for i in (0, 2, 4, 6, 7)) + tuple(
    colormaps["Dark2"](i) for i in (3, 4, 5, 6, 7)
)
SHAPES = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Look:
    """How a row's points are drawn."""

    colour: Any
    shape: str
    size: float

    @property
    def style(self) -> dict[str, Any]:
        """For matplotlib."""
        edge = {"*": 0.8, "x": 1.5}.get(self.shape, 0)
        drawn = {"color": self.colour, "marker": self.shape, "ms": self.size, "ls": ""}
        return {**drawn, "mew": edge, "mec": INK}


def scatter(sheet: Sheet) -> str | None:
    """A panel each column, a point each method: the mean of its seeds, and they as faint dots.

    None if the table does not show both accuracies, or of no column two methods.
    """
    if not {X, Y} <= set(sheet.table.measures):
        return None
    columns = [c for c in sheet.table.columns if len(points(sheet, c)) > 1]
    if not columns:
        return None
    looks = looks_of(sheet)
    across, down = min(ACROSS, len(columns)), -(-len(columns) // ACROSS)
    shown = [row for row in looks if any(row in points(sheet, c) for c in columns)]
    height = max(2.5 * down, 0.4 + 0.17 * len(shown))  # the legend's
    with rc_context(STYLE):
        figure = Figure(figsize=(2.6 * across + 2.2, height), layout="constrained")
        fields = figure.subplots(down, across, squeeze=False).ravel()
        for axes in fields[len(columns) :]:
            axes.set_axis_off()
        for axes, column in zip(fields, columns, strict=False):
            draw(axes, sheet, column, looks)
        handles = [Line2D([], [], label=subscripted(row), **looks[row].style) for row in shown]
        figure.legend(handles=handles, loc="outside right center", frameon=False)
        return svg(figure, f"{sheet.label}: D_r against D_e of every method, the oracle a star")


def points(sheet: Sheet, column: str) -> dict[str, list[tuple[float, float]]]:
    """(D_e, D_r) of every row's seeds, of the rows that have both."""
    found = {}
    for row in sheet.table.rows:
        entries = [sheet.entries.get((row, column, key)) for key in (X, Y)]
        values = [e.value for e in entries if e is not None and e.value is not None]
        if len(values) == 2:
            x, y = (dict(value.by_seed) for value in values)
            found[row] = [(x[seed], y[seed]) for seed in x if seed in y]
    return found


def draw(axes: Axes, sheet: Sheet, column: str, looks: dict[str, Look]) -> None:
    """One column's points."""
    for row, seeds in points(sheet, column).items():
        look, (x, y) = looks[row], zip(*seeds, strict=True)
        if len(seeds) > 1:
            axes.plot(x, y, ".", color=look.colour, ms=3, alpha=0.4, mew=0)
        axes.plot(fmean(x), fmean(y), zorder=3 if look.shape == "*" else 2, **look.style)
    axes.set_title(subscripted(column), fontsize=8)
    axes.set_xlabel(subscripted(f"{X} (%)"))
    axes.set_ylabel(subscripted(f"{Y} (%)"))
    axes.margins(0.08)
    axes.grid(lw=0.4, alpha=0.25)


def looks_of(sheet: Sheet) -> dict[str, Look]:
    """A colour each method, a shape each number of shots; the oracle a star, the original a cross.

    Of several oracles each has the colour of ours with its intention, if there is one.
    """
    sets = {row: dict(o.split("=", 1) for o in r.sets) for row, r in sheet.table.rows.items()}
    shots = distinct(s.get("shot", "") for s in sets.values() if plain(s))
    kinds = {row: without_shot(s) for row, s in sets.items()}
    ours = distinct(kinds[row] for row, s in sets.items() if "baseline" not in s)
    others = distinct(kinds[row] for row, s in sets.items() if "baseline" in s and plain(s))
    looks = {}
    for row, said in sets.items():
        if not plain(said):
            star = said["baseline"] == "oracle"
            same = without_shot({k: v for k, v in said.items() if k != "baseline"})
            colour = BLUES[ours.index(same) % len(BLUES)] if same in ours and same else INK
            looks[row] = Look(colour, "*", 12) if star else Look(INK, "x", 6)
            continue
        shape = SHAPES[shots.index(said.get("shot", "")) % len(SHAPES)]
        if "baseline" in said:
            looks[row] = Look(OTHERS[others.index(kinds[row]) % len(OTHERS)], shape, 5)
        else:
            looks[row] = Look(BLUES[ours.index(kinds[row]) % len(BLUES)], shape, 7)
    return looks


def plain(said: dict[str, str]) -> bool:
    """Whether a row is a method's, and neither the oracle's nor the original's."""
    return said.get("baseline") not in ("oracle", "original")


def without_shot(said: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """What makes a row but for its shots."""
    return tuple((k, v) for k, v in said.items() if k != "shot")


def distinct(values: Iterable[Any]) -> Sequence[Any]:
    """Each once, in order."""
    return list(dict.fromkeys(values))
