"""All that is used of Hydra's own, undocumented parts. A test says what broke when Hydra moved."""

from __future__ import annotations

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override

__all__ = ["BasicSweeperConf", "Callbacks", "Hydra", "combinations", "get_args_parser"]


def combinations(overrides: list[Override]) -> list[list[str]]:
    """Every combination of a sweep's values."""
    return [list(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]
