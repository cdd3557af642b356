"""Relearning (Section 4.3): adjusting the model on D~_r and the relabelled D~_e."""

from unlearn.relearning.intentions import INTENTIONS, Given, Intention
from unlearn.relearning.lesson import RelearningConfig, check_samples, warn_of_one
from unlearn.relearning.relearn import Relearning

__all__ = [
    "INTENTIONS",
    "Given",
    "Intention",
    "Relearning",
    "RelearningConfig",
    "check_samples",
    "warn_of_one",
]
