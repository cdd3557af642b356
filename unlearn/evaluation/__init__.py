"""Evaluation: measures of a model on a task, one function each under a registry."""

from unlearn.evaluation.accuracy import accuracies, share
from unlearn.evaluation.base import MEASURES, ON_REQUEST, Evidence, Others
from unlearn.evaluation.distance import distances
from unlearn.evaluation.evaluate import VERSION, Evaluation, evaluate
from unlearn.evaluation.references import References
from unlearn.registry import import_all

import_all(__name__, __path__)

list_measures = MEASURES.list

__all__ = [
    "MEASURES",
    "ON_REQUEST",
    "VERSION",
    "Evaluation",
    "Evidence",
    "Others",
    "References",
    "accuracies",
    "distances",
    "evaluate",
    "list_measures",
    "share",
]
