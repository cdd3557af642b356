"""Few-shot machine unlearning by model inversion."""

from unlearn.errors import TrainingDiverged, UserError
from unlearn.filtration import NotSeparable
from unlearn.forget import forget
from unlearn.settings import settings
from unlearn.unlearner import Result, Settings
from unlearn.version import __version__
from unlearn.watch import Watch

__all__ = [
    "NotSeparable",
    "Result",
    "Settings",
    "TrainingDiverged",
    "UserError",
    "Watch",
    "__version__",
    "forget",
    "settings",
]
