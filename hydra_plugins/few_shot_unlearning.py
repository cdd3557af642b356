"""A sweeper for Hydra: every combination of the overrides, or the cells of a table.

Hydra imports this file in every program of its environment, so it imports little.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class TableSweeper(Sweeper):
    """Runs ``experiment=table1``, or every combination of the overrides.

    Its settings, in the node ``hydra.sweeper``, are an experiment's table: see
    ``unlearn.config.schema.TableConf``. They are read from the files of the experiments that are
    asked for, since there may be several.
    """

    def __init__(self, **table: Any) -> None:
        self.table = table

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Run all jobs, say what became of them, and raise ``SystemExit`` unless all finished."""
        from unlearn.sweep.launch import sweep

        assert self.hydra_context is not None
        assert self.config is not None
        status = sweep(arguments, self.hydra_context, self.task_function, self.config)
        if status:
            raise SystemExit(status)
