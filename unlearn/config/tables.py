"""The paper's tables and figures as lists of jobs: conf/experiment/NAME.yaml, read and checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from unlearn.config.compose import CONF
from unlearn.errors import UserError, choices

T = TypeVar("T")

FOLDER = CONF / "experiment"
PARTS = ("title", "measures", "seeds", "columns", "rows")
ROW_PARTS = ("sets", "columns", "oracle")


@dataclass(frozen=True)
class Row:
    """One method of a table.

    Attributes:
        sets: the overrides that make it.
        columns: in which columns it stands.
        oracle: the row it is measured against, if any.
    """

    sets: tuple[str, ...]
    columns: tuple[str, ...]
    oracle: str | None


@dataclass(frozen=True)
class Cell:
    """One place of a table and the overrides of its runs, but for seed and scale."""

    row: str
    column: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table or a figure of the paper.

    Attributes:
        measures: keys of a run's metrics, shown in every column.
        seeds: of the runs of each cell.
        columns: names and the overrides that make them.
    """

    name: str
    title: str
    measures: tuple[str, ...]
    seeds: tuple[int, ...]
    columns: dict[str, tuple[str, ...]]
    rows: dict[str, Row]

    def cells(self) -> list[Cell]:
        """All cells, row by row."""
        return [
            Cell(name, column, (*self.columns[column], *row.sets))
            for name, row in self.rows.items()
            for column in self.columns
            if column in row.columns
        ]


def list_experiments() -> list[str]:
    """Their names: the paper's tables, its figures, then ours."""

    def order(name: str) -> tuple[bool, bool, str]:
        return not name.startswith(("table", "fig")), name.startswith("fig"), name

    return sorted((p.stem for p in FOLDER.glob("*.yaml")), key=order)


def load_table(name: str) -> Table:
    """The experiment of a name.

    Raises:
        UserError: if there is none, or its file is not as it must be.
    """
    if name not in list_experiments():
        raise choices("experiment", name, list_experiments())
    return parse_table(name, _definition(name))


def parse_table(name: str, given: dict[str, Any]) -> Table:
    """A table from its plain definition.

    Raises:
        UserError: for unknown or missing keys, columns and oracles.
    """
    where = f"experiment/{name}.yaml"
    _only(where, given, PARTS)
    missing = [part for part in PARTS if part not in given]
    if missing:
        raise UserError(where, f"lacks {', '.join(missing)}")
    measures = _list(f"{where} measures", given["measures"], str)
    seeds = _list(f"{where} seeds", given["seeds"], int)
    columns = {
        str(label): _overrides(f"{where} {label}", text)
        for label, text in _mapping(f"{where} columns", given["columns"]).items()
    }
    rows = _mapping(f"{where} rows", given["rows"])
    typed = {
        str(label): _row(f"{where} {label}", row, columns, rows) for label, row in rows.items()
    }
    return Table(name, str(given["title"]), measures, seeds, columns, typed)


def _row(where: str, given: object, columns: Iterable[str], rows: Iterable[str]) -> Row:
    row = _mapping(where, given)
    _only(where, row, ROW_PARTS)
    wanted = _list(where, row.get("columns", list(columns)), str)
    for column in wanted:
        if column not in columns:
            raise choices(where, column, columns)
    oracle = row.get("oracle")
    if oracle is not None and oracle not in rows:
        raise choices(where, oracle, rows)
    return Row(_overrides(where, row.get("sets")), wanted, oracle)


def _definition(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.yaml"
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
        node = content["hydra"]["sweeper"]
    except (OSError, YAMLError, OmegaConfBaseException, KeyError, TypeError) as error:
        raise UserError(f"experiment/{path.name}", f"cannot be read ({error})") from error
    return _mapping(f"experiment/{path.name} hydra.sweeper", node)


def _mapping(where: str, given: object) -> dict[Any, Any]:
    if not isinstance(given, dict):
        raise UserError(where, f"{given!r} is not a mapping")
    return given


def _list(where: str, given: object, kind: type[T]) -> tuple[T, ...]:
    if not isinstance(given, list) or not all(isinstance(g, kind) for g in given):
        raise UserError(where, f"{given!r} is not a list of {kind.__name__}")
    return tuple(given)


def _only(where: str, given: dict[Any, Any], known: Iterable[str]) -> None:
    for key in given:
        if key not in known:
            raise choices(where, key, known)


def _overrides(where: str, text: object) -> tuple[str, ...]:
    words = tuple(text.split()) if isinstance(text, str) else ()
    if not words or not all("=" in word for word in words):
        raise UserError(where, f"{text!r} is not a list of KEY=VALUE")
    return words
