"""What the numbers of a table rest on: their originals, and how their runs were computed.

Two originals of one seed can differ: another version of the training, another precision, processor
or number of threads gives other weights, and what is measured after unlearning differs with them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from unlearn.report.match import Filled, composed
from unlearn.report.runs import Run

# Trained from scratch: it rests on no original.
FROM_SCRATCH = "oracle"
ORIGINAL = "original"
# The settings that make an original.
MAKERS = ("scenario", "data", "image_size", "per_class", "model", "augment", "training")


def remarks(filled: Sequence[Filled], scale: str) -> list[str]:
    """One line on originals and one on ways of computing, each only where there is something."""
    lines = [
        different_originals(filled, scale),
        different_ways([r for f in filled for r in f.runs]),
    ]
    return [line for line in lines if line]


def different_originals(filled: Sequence[Filled], scale: str) -> str:
    """Which cells of a column rest on different originals, and what is unknown of it.

    Cells are compared whose settings ask for the same original. A run names its original by the
    key of its training, which two processors share; the original's accuracies tell those apart. A
    run that does not name it is told apart by the accuracies alone.
    """
    runs = _on_originals(filled, scale)
    if runs.empty:
        return ""
    groups = [g for _, g in runs.groupby(["column", "asks"], sort=False) if len(g) > 1]
    differing = [g for g in groups if g["original"].nunique() > 1]
    unnamed, of = (sum(len(g[~g["named"]]) for g in groups), sum(len(g) for g in groups))
    lines = []
    if differing:
        parts = [f"{g['column'].iloc[0]}: {_split(g)}" for g in differing]
        lines.append(f"Different originals in one column. {'. '.join(parts)}.")
    if unnamed:
        known = "alone tell them apart" if differing else "are the same within each column"
        lines.append(
            f"Whether {'there are more' if differing else 'each column rests on one original'} is "
            f"unknown: {unnamed} of {of} runs do not name theirs; the originals' accuracies "
            f"{known}."
        )
    return " ".join(lines)


def _on_originals(filled: Sequence[Filled], scale: str) -> pd.DataFrame:
    """A line for each run that rests on an original."""
    found = pd.DataFrame(
        [
            {
                "column": f.cell.column,
                "asks": _asks(f, scale),
                "row": f.cell.row,
                "seed": run.seed,
                "key": _key(run),
                "accuracies": _accuracies(run),
                "named": "training" in run.stages,
            }
            for f in filled
            for run in f.runs
            if run.method != FROM_SCRATCH
        ]
    )
    if found.empty:
        return found
    known = found[found["accuracies"] != ""].groupby(["column", "asks", "key"])["accuracies"]
    shared = {key for key, differing in (known.nunique() > 1).items() if differing}
    found["original"] = [
        _name(r.key, r.accuracies, (r.column, r.asks, r.key) in shared) for r in found.itertuples()
    ]
    return found


def _asks(filled: Filled, scale: str) -> str:
    wanted = composed(filled.cell.overrides, scale)
    makers = {k: v for k, v in wanted.items() if k.split(".")[0] in MAKERS}
    return json.dumps(makers, sort_keys=True)


def _key(run: Run) -> str:
    return str(run.stages["training"]["key"])[:8] if "training" in run.stages else ""


def _accuracies(run: Run) -> str:
    """Those of its original, in %; empty if unknown."""
    prefix = "" if run.method == ORIGINAL else "original_"
    known = [(name, run.metrics.get(f"{prefix}{name}")) for name in ("D_r", "D_e")]
    return ", ".join(f"{name} {100 * value:.2f}" for name, value in known if value is not None)


def _name(key: str, accuracies: str, shared: bool) -> str:
    """An original's key; its accuracies if it has none, or shares it with another original."""
    if not key:
        return accuracies or "unknown"
    return f"{key}: {accuracies}" if shared and accuracies else key


def _split(group: pd.DataFrame) -> str:
    """``Ours_std, Ours_neg seed 1 on one (3f2a9c01); 12 other cells on another (77b0e1d2)``."""
    cells = group.groupby("row", sort=False)["original"].nunique()
    mixed = set(cells[cells > 1].index)
    sizes = group.groupby("original", sort=False)["row"].nunique().sort_values(kind="stable")
    texts = []
    for place, name in enumerate(sizes.index):
        part = group[group["original"] == name]
        words = [_cell(row, seeds, row in mixed) for row, seeds in part.groupby("row", sort=False)]
        texts.append(f"{', '.join(words)} on {'another' if place else 'one'} ({name})")
    return "; ".join(texts)


def _cell(row: Any, runs: pd.DataFrame, mixed: bool) -> str:
    seeds = [str(int(seed)) for seed in runs["seed"].dropna()]
    return f"{row} seed {' '.join(seeds)}" if mixed and seeds else str(row)


def different_ways(runs: Sequence[Run]) -> str:
    """What differs in how a table's runs were computed: threads, precision, versions of stages."""
    ways: dict[str, list[Any]] = {
        "threads of the CPU": [r.threads for r in runs if r.threads is not None],
        "precision": [r.precision or "unknown" for r in runs],
    }
    said = [run for run in runs if run.stages]
    for stage in dict.fromkeys(name for run in said for name in run.stages):
        versions = [run.stages[stage]["version"] for run in said if stage in run.stages]
        ways[f"version of {stage}"] = versions
    ways["version of evaluation"] = [r.content["measured"] for r in runs if "measured" in r.content]
    parts = [f"{name} {_counts(values)}" for name, values in ways.items() if len(set(values)) > 1]
    if said and len(said) < len(runs):
        parts.append(f"versions of stages unknown in {len(runs) - len(said)}")
    return f"Computed in different ways, in runs: {'; '.join(parts)}." if parts else ""


def _counts(values: Iterable[Any]) -> str:
    """``1 in 30, 2 in 12``."""
    return ", ".join(f"{value} in {n}" for value, n in sorted(Counter(values).items(), key=str))
