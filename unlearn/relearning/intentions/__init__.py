"""Intentions (Section 3): what the unlearned model shall answer on D~_e; one file each."""

from unlearn.registry import import_all
from unlearn.relearning.intentions.base import AGREEMENT, INTENTIONS, Given, Intention

import_all(__name__, __path__)

__all__ = ["AGREEMENT", "INTENTIONS", "Given", "Intention"]
