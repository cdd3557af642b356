"""Scenarios: what was trained on, and which part of it must go."""

from unlearn.registry import import_all
from unlearn.scenarios.base import (
    SCENARIOS,
    Scenario,
    Shots,
    Task,
    load_task,
    shot_mask,
    take_shots,
)

import_all(__name__, __path__)

list_scenarios = SCENARIOS.list

__all__ = [
    "SCENARIOS",
    "Scenario",
    "Shots",
    "Task",
    "list_scenarios",
    "load_task",
    "shot_mask",
    "take_shots",
]
