"""Few-shot machine unlearning by model inversion."""

from typing import Any

from unlearn.engine.alone import alone
from unlearn.errors import TrainingDiverged, UserError
from unlearn.version import __version__

with alone():  # Lightning, as it is imported, looks for other processes of the job
    from unlearn.engine.watch import Watch
    from unlearn.filtration import NotSeparable
    from unlearn.forget import Result, Settings, forget

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


def __getattr__(name: str) -> Any:
    # The library call needs neither Hydra nor what conf/ may name, data sets among it.
    if name == "settings":
        from unlearn.config import settings

        return settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
