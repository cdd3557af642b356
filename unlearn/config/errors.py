"""Hydra's and OmegaConf's errors in plain words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from unlearn.config.compose import CONF, names, resolve, unknown_key
from unlearn.errors import UserError, choices

WRONG_TYPE = re.compile(
    r"Value '([^']*)'[^\n]*? (?:could not be converted to|is incompatible with type hint) "
    r"'?([\w\[\], .|]+)'?"
)


def translated(error: Exception, overrides: Sequence[str]) -> UserError:
    """Hydra's and OmegaConf's errors in one line that names the key and what is allowed."""
    text = str(error)
    cause = error.__cause__
    full = f"{text}\n{cause}" if cause is not None else text
    group = re.search(r"Could not (?:find|load) '([\w/]+)/([^']+)'", full)
    if group and group[1] == "hydra/launcher":
        extra = group[2].removeprefix("submitit_")
        return UserError(
            "launcher", f"{group[2]} is not installed: pip install 'few-shot-unlearning[{extra}]'"
        )
    if group and not group[1].startswith("special"):
        return choices(group[1].replace("/", "."), group[2], names(group[1]))
    key = re.search(r"full_key: (\S+)", full)
    if key and "missing mandatory value" in full:
        return UserError(key[1], f"needs a value: {key[1]}=...")
    kind = WRONG_TYPE.search(full)
    if kind and key:
        return UserError(key[1], f"{kind[1]!r} is not of type {plain_type(kind[2])}")
    absent = re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", full) or re.search(
        r"Could not override '([^']+)'", full
    )
    if absent:
        name = key[1] if key else absent[1]
        return unknown_key(name, neighbours(name))
    override = next((o for o in overrides if o in text), None)
    first = " ".join(text.split())[:300]
    return UserError(override.split("=")[0] if override else "configuration", first)


def plain_type(hint: str) -> str:
    """A type as a person says it."""
    words = {"Integer": "int", "Float": "float", "Boolean": "bool", "String": "str"}
    return words.get(hint.strip(), hint.strip())


def neighbours(name: str) -> list[str]:
    """The keys beside ``name``, or the top ones where its parent does not exist."""
    parts = name.split(".")
    if parts[0] == "logger":  # not in the configuration until it is chosen
        known = names("logger")
        if len(parts) == 2 or parts[1] not in known:
            return known
        return sorted(str(key) for key in OmegaConf.load(CONF / "logger" / f"{parts[1]}.yaml"))
    node: Any = resolve([])
    for part in name.split(".")[:-1]:
        if not hasattr(node, part):
            return sorted(vars(resolve([])))
        node = getattr(node, part)
    return sorted(vars(node))
