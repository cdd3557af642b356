"""Few-shot machine unlearning by model inversion."""

__version__ = "0.1.0"

from unlearn.errors import TrainingDiverged, UserError
from unlearn.filtration import NotSeparable
from unlearn.forget import Result, forget
from unlearn.settings import Settings, settings

__all__ = [
    "NotSeparable",
    "Result",
    "Settings",
    "TrainingDiverged",
    "UserError",
    "forget",
    "settings",
]
