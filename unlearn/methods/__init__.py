"""Other methods that are given what ours is given: the model and the shots, no training data."""

from unlearn.methods.base import METHODS, Competitor, Method, MethodStage, Repaired
from unlearn.registry import import_all

import_all(__name__, __path__)

__all__ = ["METHODS", "Competitor", "Method", "MethodStage", "Repaired"]
