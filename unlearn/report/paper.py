"""The paper's numbers, as printed in its Tables 1 to 8 (``paper.json``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Printed:
    """A mean and, where the paper has one, its standard deviation. 99.50 keeps its two digits."""

    mean: Decimal
    std: Decimal | None

    @property
    def decimals(self) -> int:
        """Digits after the point."""
        return -int(self.mean.as_tuple().exponent)

    @property
    def band(self) -> Decimal:
        """How far from the mean still agrees: the std, or half a unit of the last digit if that is
        more or there is no std."""
        return max(self.std or Decimal(0), Decimal(5).scaleb(-self.decimals - 1))

    def __str__(self) -> str:
        return str(self.mean) if self.std is None else f"{self.mean} ± {self.std}"


@dataclass(frozen=True)
class PaperTable:
    """One table: values by (row, column, measure), and where the paper contradicts itself."""

    values: dict[tuple[str, str, str], Printed]
    notes: tuple[str, ...]


@cache
def paper_tables() -> dict[str, PaperTable]:
    """The paper's tables by name, their rows and columns named as in ``conf/experiment``."""
    text = (Path(__file__).parent / "paper.json").read_text(encoding="utf-8")
    tables = {}
    for name, table in json.loads(text, parse_float=Decimal).items():
        values = {
            (row, column, measure): Printed(*cell, *[None] * (2 - len(cell)))
            for row, cells in table["rows"].items()
            for (column, measure), cell in zip(table["columns"], cells, strict=True)
            if cell is not None
        }
        tables[name] = PaperTable(values, tuple(table["notes"]))
    return tables
