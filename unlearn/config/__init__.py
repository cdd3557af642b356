"""The configuration: its schema, its ranges, its values from conf/, its errors in plain words."""

from unlearn.config.checks import check
from unlearn.config.compose import CONF, resolve, settings, typed, unlearner_settings
from unlearn.config.identity import known_by, method_of, relevant
from unlearn.config.schema import Config

__all__ = [
    "CONF",
    "Config",
    "check",
    "known_by",
    "method_of",
    "relevant",
    "resolve",
    "settings",
    "typed",
    "unlearner_settings",
]
