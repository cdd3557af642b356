"""Filtration (Section 4.2): refining the generated samples and finding the target-like ones."""

from unlearn.filtration.filtrate import (
    Filter,
    Filtration,
    FiltrationConfig,
    NotSeparable,
    Proxy,
    among,
    filtrate,
    split,
)

__all__ = [
    "Filter",
    "Filtration",
    "FiltrationConfig",
    "NotSeparable",
    "Proxy",
    "among",
    "filtrate",
    "split",
]
