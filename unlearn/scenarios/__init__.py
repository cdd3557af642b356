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
from unlearn.scenarios.own import Own, OwnTask

import_all(__name__, __path__)

list_scenarios = SCENARIOS.list

__all__ = [
    "SCENARIOS",
    "Own",
    "OwnTask",
    "Scenario",
    "Shots",
    "Task",
    "list_scenarios",
    "load_task",
    "shot_mask",
    "take_shots",
]
