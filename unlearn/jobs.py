"""Which jobs a command line means: one, every combination of a sweep, or the cells of a table."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from unlearn.baselines import BASELINES
from unlearn.errors import UserError
from unlearn.experiments import Cell, Table, load_table

# A cell that does not say so runs our method.
UNSAID = {"baseline": "none"}


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them.

    Raises:
        HydraException: if one cannot be read.
    """
    return OverridesParser.create().parse_overrides(list(overrides))


def combinations(overrides: list[Override]) -> list[list[str]]:
    """Every combination of a sweep's values."""
    return [list(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]


def jobs_of(overrides: list[Override]) -> list[list[str]]:
    """The jobs of a sweep, each a list of overrides.

    With ``experiment=table1`` these are the table's cells with all its seeds. What else is given
    then selects cells where it is something that tells them apart, and overrides otherwise.
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
    told_apart = {key for cell in table.cells() for key in settings_of(cell)}
    selecting = [o for o in others if o.get_key_element() in told_apart]
    cells = [c for c in table.cells() if all(selected(c, o) for o in selecting)]
    if not cells:
        words = " ".join(o.input_line or "" for o in selecting)
        raise UserError("experiment", f"{table.name} has no cell with {words}")
    own = combinations([o for o in others if o not in selecting])
    seeded = any(o.get_key_element() == "seed" for o in others)
    jobs = []
    for cell in cells:
        seeds = [[]] if seeded else [[f"seed={s}"] for s in seeds_of(table, cell)]
        jobs += [
            [f"experiment={table.name}", *cell.overrides, *seed, *rest]
            for rest in own
            for seed in seeds
        ]
    return jobs


def settings_of(cell: Cell) -> dict[str, str]:
    """A cell's overrides by key."""
    pairs = (o.partition("=") for o in cell.overrides)
    return UNSAID | {key: value for key, _, value in pairs}


def selected(cell: Cell, override: Override) -> bool:
    """Whether a cell has one of the override's values."""
    values = {job[0].partition("=")[2] for job in combinations([override])}
    return settings_of(cell).get(override.get_key_element()) in values


def seeds_of(table: Table, cell: Cell) -> tuple[int, ...]:
    """The table's seeds, or the first where the method draws nothing."""
    name = settings_of(cell)["baseline"]
    return table.seeds if name == "none" or "seed" in BASELINES[name].uses else table.seeds[:1]
