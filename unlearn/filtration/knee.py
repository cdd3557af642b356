"""Where the sorted MMD curve bends: the threshold t_f (Section 4.2; Satopaa et al. 2011)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
from kneed import KneeLocator
from numpy.typing import NDArray

SENSITIVITIES = (1, 5, 10, 20, 50, 100, 200, 500, 1000)


def knee(distances: NDArray[np.float64], sensitivity: float) -> float | None:
    """The distance at the first knee of the sorted curve (concave, increasing), or None."""
    curve = np.sort(distances)
    if len(curve) < 3 or curve[0] == curve[-1]:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kneed warns where there is no knee
        found = KneeLocator(
            np.arange(len(curve)), curve, S=sensitivity, curve="concave", direction="increasing"
        ).knee
    return None if found is None else float(curve[int(cast(float, found))])


def threshold(
    distances: NDArray[np.float64],
    within: NDArray[np.float64],
    sensitivities: Sequence[float] = SENSITIVITIES,
) -> tuple[float, float | None]:
    """t_f by the knee, guarded by D_e's own spread.

    The sensitivity S rises until the knee reaches the mean of ``within``; the result is clipped
    into [mean, max] of it. With S = 1 alone the knee comes far too early.

    Args:
        distances: MMD of each generated sample to D_e.
        within: the shots' own spread, as ``Proxy`` has it.

    Returns:
        The threshold, and the S that found it (None: no knee, the mean was taken).
    """
    low, high = float(within.mean()), float(within.max())
    for s in sensitivities:
        found = knee(distances, s)
        if found is not None and found >= low:
            return min(found, high), s
    return low, None
