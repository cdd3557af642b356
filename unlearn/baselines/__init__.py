"""The methods that the paper compares with: all of them see the training data."""

from unlearn.baselines.base import BASELINES, Baseline, BaselineStage, FullAccess, Outcome
from unlearn.registry import import_all

import_all(__name__, __path__)

__all__ = ["BASELINES", "Baseline", "BaselineStage", "FullAccess", "Outcome"]
