"""A table filled from runs: means, the paper's values beside them, marks, and what lacks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t

from unlearn.config.tables import Table, load_table
from unlearn.report import origins
from unlearn.report.match import Filled, fill
from unlearn.report.measures import EXTRAS, measure
from unlearn.report.paper import PaperTable, Printed, paper_tables
from unlearn.report.runs import Found, Run

Place = tuple[str, str, str]  # row, column, measure

OUTSIDE, NEARER = "†", "★"
LEGEND = (
    "ours: mean ± standard deviation over seeds (number of seeds); below it the paper's value and "
    "ours minus the paper's",
    f"{OUTSIDE} outside the paper's band: further from its mean than its ±, or than half a unit "
    "of its last printed digit if that is more or it gives no ±",
    f"{NEARER} nearer to the oracle than the paper's: ours from our oracle's mean, the paper's "
    "from the paper's oracle, in the same column",
)
NOT_PAPER = "The paper's numbers are of its own, full scale."
NORM_NOTE = "Norms: the ± is the spread over images, a mean over seeds, as in the paper."


@dataclass(frozen=True)
class Value:
    """A measure of a cell, in the units it is shown in.

    Attributes:
        mean: over seeds.
        std: what stands after the ±, if anything.
        by_seed: the seeds' own values.
        interval: what stands in the place of the ±, the ends of a 95 % t-interval over seeds.
    """

    mean: float
    std: float | None
    by_seed: tuple[tuple[int | None, float], ...]
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Entry:
    """One number of a table: ours, the paper's, and how they compare."""

    value: Value | None
    paper: Printed | None
    decimals: int
    outside: bool = False
    nearer: bool = False

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.value is None or self.paper is None:
            return None
        return self.value.mean - float(self.paper.mean)

    @property
    def marks(self) -> str:
        """The marks as signs."""
        return OUTSIDE * self.outside + NEARER * self.nearer


@dataclass(frozen=True)
class Sheet:
    """One experiment at one scale."""

    table: Table
    scale: str
    filled: dict[tuple[str, str], Filled]
    entries: dict[Place, Entry]
    extras: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """``Table 1``, ``Figure 3``; what is not the paper's has its own name."""
        found = re.fullmatch(r"(table|fig)(\d+)", self.table.name)
        if found is None:
            return self.table.name.capitalize()
        return f"{'Table' if found[1] == 'table' else 'Figure'} {found[2]}"

    @property
    def in_paper(self) -> bool:
        """Whether the paper has any number of it."""
        return any(entry.paper is not None for entry in self.entries.values())

    @property
    def runs(self) -> list[Run]:
        """Those that the sheet is made of."""
        return [run for filled in self.filled.values() for run in filled.runs]

    @property
    def failures(self) -> list[tuple[Filled, Run]]:
        """Failed runs and their cells."""
        return [(f, run) for f in self.filled.values() for run in f.failures]

    @property
    def counts(self) -> tuple[int, int]:
        """How many cells have runs, and how many cells there are."""
        return sum(bool(f.runs) for f in self.filled.values()), len(self.filled)

    def status(self, row: str, column: str) -> str:
        """Why a cell has no value: ``failed``, ``not run``, or nothing if it is no cell."""
        filled = self.filled.get((row, column))
        if filled is None:
            return ""
        if filled.runs:
            return "not measured"
        return "failed" if filled.failures else "not run"

    @property
    def facts(self) -> str:
        """What the numbers rest on, in sentences: scale, seeds, data, hardware, versions."""
        numbers = sorted({len(f.runs) for f in self.filled.values() if f.runs})
        if not numbers:
            return f"Scale {self.scale}. No run so far."
        spread = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
        have, of = self.counts
        parts = [
            f"Scale {self.scale}",
            f"{have} of {of} cells run",
            f"n = {spread}",
            f"Data: {_set(map(_data, self.runs))}",
            f"Hardware: {_set(str(r.content.get('hardware', '?')) for r in self.runs)}",
            f"Version: {_set(run.version for run in self.runs)}",
        ]
        notes = [NOT_PAPER] if self.in_paper and self.scale != "paper" else []
        if any(m.startswith("norm") for m in self.table.measures):
            notes.append(NORM_NOTE)
        return " ".join([". ".join(parts) + ".", *notes])

    @property
    def origins(self) -> list[str]:
        """Where cells rest on different originals or were computed in different ways."""
        return origins.remarks(list(self.filled.values()), self.scale)

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know of the runs and of the paper's table."""
        remarks = list(self.origins)
        departures = Counter(text for f in self.filled.values() for text in f.departures)
        if departures:
            runs = len(self.runs)
            texts = [f"{text} in {n} of {runs} runs" for text, n in sorted(departures.items())]
            remarks.append(f"Settings other than conf/'s: {'; '.join(texts)}.")
        left = sum(f.left_out for f in self.filled.values())
        if left:
            remarks.append(
                f"Left out: {left} more runs fit these cells; taken is, for each seed, the one "
                "with conf/'s own settings, else the newest."
            )
        return remarks + [f"The paper: {note}" for note in self.notes]


def build(name: str, scale: str, found: Found) -> Sheet:
    """An experiment's sheet from all the runs that were found."""
    return build_table(load_table(name), scale, found)


def build_table(table: Table, scale: str, found: Found) -> Sheet:
    """A table's sheet from all the runs that were found."""
    filled = {(c.row, c.column): fill(c, scale, found) for c in table.cells()}
    paper = paper_tables().get(table.name, PaperTable({}, ()))
    keys = {key for f in filled.values() for run in f.runs for key in run.metrics}
    extras = tuple(key for key in EXTRAS if key in keys)
    places = [(*cell, m) for m in (*table.measures, *extras) for cell in filled]
    values = {p: summary(filled[p[:2]].runs, p[2]) for p in places}
    entries = {p: _entry(p, table, values, paper) for p in places}
    return Sheet(table, scale, filled, entries, extras, paper.notes)


def summary(runs: Sequence[Run], key: str) -> Value | None:
    """A measure over a cell's runs; None if no run has it.

    The std is that of a sample, over seeds; for norms the mean over seeds of the std over images.
    """
    kind = measure(key)
    having = [run for run in runs if key in run.metrics]
    if not having:
        return None
    by_seed = tuple((run.seed, kind.factor * run.metrics[key]) for run in having)
    values = [value for _, value in by_seed]
    if kind.spread is not None:
        spreads = [run.metrics[kind.spread] for run in having if kind.spread in run.metrics]
        std = kind.factor * fmean(spreads) if spreads else None
    else:
        std = stdev(values) if len(values) > 1 else None
    interval = t_interval(values) if kind.interval and len(values) > 1 else None
    return Value(fmean(values), std, by_seed, interval)


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The ends of Student's interval for the mean of two or more values.

    Example:
        >>> low, high = t_interval([0.8, 0.9, 1.0])
        >>> round(low, 3), round(high, 3)
        (0.652, 1.148)
    """
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


def _entry(
    place: Place, table: Table, values: dict[Place, Value | None], paper: PaperTable
) -> Entry:
    row, column, key = place
    value, printed = values[place], paper.values.get(place)
    like = next((p for (_, c, m), p in paper.values.items() if (c, m) == (column, key)), None)
    decimals = like.decimals if like is not None else measure(key).decimals
    if value is None or printed is None:
        return Entry(value, printed, decimals)
    # Nine digits: 0.1 + 0.2 is not beyond 0.3.
    outside = round(abs(value.mean - float(printed.mean)), 9) > float(printed.band)
    aim = (table.rows[row].oracle or "", column, key)
    ours, theirs = values.get(aim), paper.values.get(aim)
    nearer = False
    if ours is not None and theirs is not None:
        gap = round(abs(value.mean - ours.mean), 9)
        nearer = gap < float(abs(printed.mean - theirs.mean))
    return Entry(value, printed, decimals, outside, nearer)


def _set(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts)))


def _data(run: Run) -> str:
    note = run.content.get("note")
    data = str(run.content.get("data", run.settings.get("data", "?")))
    return f"{data} ({note})" if note else data
