"""Relearning (Section 4.3): one small class per intention."""

from unlearn.registry import import_all
from unlearn.relearning.base import INTENTIONS, Given, Intention
from unlearn.relearning.lesson import RelearningConfig
from unlearn.relearning.relearn import relearn

import_all(__name__, __path__)

__all__ = ["INTENTIONS", "Given", "Intention", "RelearningConfig", "relearn"]
