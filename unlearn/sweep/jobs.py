"""Which jobs a command line means: one, every combination of a sweep, or the cells of a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from unlearn.config.schema import COMPETITORS
from unlearn.config.tables import Cell, Table, load_table
from unlearn.errors import UserError

# A cell that does not say so runs our method.
UNSAID = {"baseline": "none"}
CHOOSING = ("scenario", "baseline", "intention", "shot")


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them.

    Raises:
        HydraException: if one cannot be read.
    """
    return OverridesParser.create().parse_overrides(list(overrides))


def shared(jobs: list[list[str]]) -> list[str]:
    """The overrides that all jobs have."""
    return [o for o in jobs[0] if all(o in job for job in jobs)]


def in_short(jobs: list[list[str]]) -> list[str]:
    """What tells the jobs apart: each one's overrides but for the shared ones."""
    common = shared(jobs) if len(jobs) > 1 else []
    own = [" ".join(o for o in job if o not in common) for job in jobs]
    return [words or f"job {number}" for number, words in enumerate(own, 1)]


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Every combination of a sweep's values; of one key's overrides the last one holds.

    Raises:
        HydraException: for a range of values that no list can give.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise HydraException(f"{override.input_line} is no list of values")
    return [list(job) for job in itertools.product(*values.values())]


def jobs_of(overrides: list[Override]) -> list[list[str]]:
    """The jobs of a sweep, each a list of overrides.

    With ``experiment=table1`` these are the table's cells with all its seeds. What else is given
    selects among the cells (``intention=neg``) or holds for all of them (``scale=demo``).
    """
    asked = [o for o in overrides if o.get_key_element() == "experiment"]
    others = [o for o in overrides if o.get_key_element() != "experiment"]
    if not asked:
        return combinations(others)
    names = [job[0].partition("=")[2] for job in combinations(asked)]
    return [job for name in names for job in table_jobs(load_table(name), others)]


def table_jobs(table: Table, others: list[Override]) -> list[list[str]]:
    """A table's jobs: its selected cells, each with its seeds and the other overrides.

    Raises:
        UserError: if no cell is selected.
    """
    cells = table.cells()
    selecting = [o for o in others if selects(cells, o)]
    cells = [c for c in cells if all(has(c, o) for o in selecting)]
    if not cells:
        words = " ".join(o.input_line or "" for o in selecting)
        raise UserError("experiment", f"{table.name} has no cell with {words}")
    overriding = [o for o in others if o not in selecting]
    keys = [o.get_key_element() for o in overriding]
    jobs = []
    for cell in cells:
        own = [o for o in cell.overrides if o.partition("=")[0] not in keys]
        seeds = [[]] if "seed" in keys else [[f"seed={s}"] for s in seeds_of(table, cell)]
        jobs += [
            [f"experiment={table.name}", *own, *seed, *rest]
            for rest in combinations(overriding)
            for seed in seeds
        ]
    return jobs


def selects(cells: Sequence[Cell], override: Override) -> bool:
    """Whether an override chooses among a table's cells rather than change them all.

    The knobs that make a row or a column always do, where the table sets them at all; other
    settings if a cell has the value.
    """
    key = override.get_key_element()
    if not any(key in settings_of(c) for c in cells):
        return False
    return key.split(".")[0] in CHOOSING or any(has(c, override) for c in cells)


def settings_of(cell: Cell) -> dict[str, str]:
    """A cell's overrides by key."""
    pairs = (o.partition("=") for o in cell.overrides)
    return UNSAID | {key: value for key, _, value in pairs}


def has(cell: Cell, override: Override) -> bool:
    """Whether a cell has one of the override's values."""
    values = {job[0].partition("=")[2] for job in combinations([override])}
    return settings_of(cell).get(override.get_key_element()) in values


def seeds_of(table: Table, cell: Cell) -> tuple[int, ...]:
    """The table's seeds, or the first where the method draws nothing."""
    name = settings_of(cell)["baseline"]
    return table.seeds if name == "none" or "seed" in COMPETITORS[name].uses else table.seeds[:1]
