"""What the test images like D_e are answered, class by class, in a table's runs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from unlearn.report.measures import ANSWERS
from unlearn.report.runs import Run
from unlearn.report.sheet import Sheet

BEFORE, AFTER = ANSWERS
ORIGINAL = "before: the original"


@dataclass(frozen=True)
class Answers:
    """The answers in one column of a table.

    Attributes:
        column: its name.
        classes: those that any model answers.
        rows: by name how many images each class is answered on, a mean over seeds; first those of
            the original.
    """

    column: str
    classes: list[str]
    rows: dict[str, list[float]]


def answers(sheet: Sheet) -> list[Answers]:
    """The answers in each column that has runs with them."""
    found = []
    for column in sheet.table.columns:
        cells = [(row, sheet.filled.get((row, column))) for row in sheet.table.rows]
        runs = {row: filled.runs for row, filled in cells if filled is not None}
        every = [run for group in runs.values() for run in group]
        counted = {ORIGINAL: counts(every, BEFORE)}
        counted |= {row: counts(group, AFTER) for row, group in runs.items()}
        counted = {row: numbers for row, numbers in counted.items() if numbers}
        if not counted.keys() - {ORIGINAL}:
            continue
        named = [str(name) for name in every[0].content["classes"]]
        classes = [c for c in named if any(numbers.get(c) for numbers in counted.values())]
        rows = {row: [n.get(c, 0.0) for c in classes] for row, n in counted.items()}
        found.append(Answers(column, classes, rows))
    return found


def counts(runs: list[Run], prefix: str) -> dict[str, float]:
    """Mean number of images by class, over the runs that have it."""
    each: dict[str, list[float]] = {}
    for run in runs:
        for key, number in run.metrics.items():
            if key.startswith(prefix):
                each.setdefault(key.removeprefix(prefix), []).append(number)
    return {name: fmean(numbers) for name, numbers in each.items()}
