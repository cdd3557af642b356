"""Errors that a person can mend: one line that names the setting and what it allows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the caller can put right. ``key`` is the setting that is to blame."""

    def __init__(self, key: str, message: str) -> None:
        # One line whatever a library put into it.
        super().__init__(f"{key or 'error'}: {' '.join(message.split())}")
        self.key = key


class TrainingDiverged(UserError):
    """A loss was NaN or infinite; earlier stages are kept."""

    def __init__(self, stage: str, step: int, hint: str) -> None:
        super().__init__(stage, f"the loss became NaN or infinite at step {step}; {hint}")
        self.stage, self.step = stage, step


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest of ``known``, or nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def choices(key: str, value: object, allowed: Iterable[object]) -> UserError:
    """The error for a value outside a short list."""
    names = [str(a) for a in allowed]
    return UserError(
        key, f"{value!r} is not one of {', '.join(names)}{did_you_mean(str(value), names)}"
    )
