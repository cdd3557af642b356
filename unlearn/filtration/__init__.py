"""Filtration (Section 4.2): refining the generated samples and finding the target-like ones."""

from unlearn.filtration.by_hand import ByHand, Marks, marks_of
from unlearn.filtration.filtrate import (
    Filter,
    Filtration,
    FiltrationConfig,
    NotSeparable,
    Proxy,
    among,
    check_parts,
    filtrate,
    split,
    warn_of_reach,
)

__all__ = [
    "ByHand",
    "Filter",
    "Filtration",
    "FiltrationConfig",
    "Marks",
    "NotSeparable",
    "Proxy",
    "among",
    "check_parts",
    "filtrate",
    "marks_of",
    "split",
    "warn_of_reach",
]
