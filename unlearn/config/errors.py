"""Hydra's and OmegaConf's errors in plain words."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf

from unlearn.config.compose import CONF, names, resolve, unknown_key
from unlearn.errors import UserError, choices, did_you_mean
from unlearn.program import COMMANDS

WRONG_TYPE = re.compile(
    r"Value '([^']*)'[^\n]*? (?:could not be converted to|is incompatible with type hint) "
    r"'?([\w\[\], .|]+)'?"
)


SEVERAL = re.compile(
    r"Ambiguous value for argument '(.+?)'\n|Sweep parameters '(.+?)' requires --multirun",
    re.DOTALL,
)
NO_SETTING = re.compile(r"Interpolation key '([^']*)' not found")


def translated(error: Exception, overrides: Sequence[str], sweep: bool = False) -> UserError:
    """Hydra's and OmegaConf's errors in one line that names the key and what is allowed.

    Args:
        sweep: whether commas tell values apart.
    """
    text = str(error)
    nameless = [o for o in overrides if not o.partition("=")[0].strip("+~ ")]
    if isinstance(error, OverrideParseException) or nameless:
        return unreadable([*nameless, getattr(error, "override", "")][0], sweep)
    if "Config group override must be a string" in text:
        given = {o.partition("=")[0]: o.partition("=")[2] for o in overrides}
        bad = next(k for k, v in given.items() if names(k) and v not in names(k))
        return choices(bad, given[bad], names(bad))
    if several := SEVERAL.search(text):
        name, _, value = (several[1] or several[2]).partition("=")
        return UserError(
            name,
            f"{value!r} is several values; sweep over them with -m, or, if it is one, "
            f"quote it: {in_quotes(name, value)}",
        )
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
        return wrong_type(key[1], kind[1], plain_type(kind[2]), overrides)
    if key and (setting := NO_SETTING.search(full)):
        asked = _value_of(key[1], overrides)
        return UserError(
            key[1],
            f"there is no setting {setting[1]} to take ${{{setting[1]}}} from; if it is no "
            f"setting's name, quote it: {in_quotes(key[1], asked)}",
        )
    absent = re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", full) or re.search(
        r"Could not override '([^']+)'", full
    )
    if absent:
        name = key[1] if key else absent[1]
        return unknown_key(name, neighbours(name))
    override = next((o for o in overrides if o in text), None)
    if override is not None and cause is not None:
        name, _, value = override.partition("=")
        return wrong_type(name.lstrip("+"), value, plain_type(_kind_of(name)), overrides)
    first = " ".join(text.split())[:300]
    return UserError(override.split("=")[0] if override else "configuration", first)


def unreadable(override: str, sweep: bool = False) -> UserError:
    """For an override that Hydra's grammar does not allow: the key, and how to quote the value."""
    key, equal, value = override.partition("=")
    name = key.lstrip("+~").strip()
    if not name:
        return UserError("command line", f"{override!r} names no setting: KEY=VALUE")
    if not equal:
        known = sorted(vars(resolve([])))
        if name.split(".")[0].split("/")[0] in known:
            return UserError(name, f"needs a value: {name}=...")
        return UserError(
            "command line",
            f"{override!r} is no KEY=VALUE and no command{did_you_mean(name, [*COMMANDS, *known])}",
        )
    if not re.fullmatch(r"[\w$-]+([./@][\w$-]+)*", name, re.ASCII):
        return unknown_key(name, sorted(vars(resolve([]))))
    return UserError(
        name,
        f"{value!r} has characters that mean something else here; quote it, in a shell: "
        f"{in_quotes(name, value, sweep)}",
    )


def in_quotes(key: str, value: str, sweep: bool = False) -> str:
    """``key=value`` as a shell takes it, with quotes of Hydra's around a value that needs them."""
    parts = value.split(",") if sweep else [value]
    # Quoted, a ~ would be a folder's name.
    parts = [os.path.expanduser(part) for part in parts]
    return shlex.quote(f"{key}=" + ",".join(_quoted(part, sweep) for part in parts))


def _quoted(value: str, only_if_needed: bool) -> str:
    if only_if_needed:
        try:
            OverridesParser.create().parse_overrides([f"x={value}"])
            return value
        except HydraException:
            pass
    # $ and { would be the start of another setting's value.
    return QuotedString(value.replace("${", r"\${"), Quote.double).with_quotes()


def wrong_type(key: str, value: str, kind: str, overrides: Sequence[str]) -> UserError:
    """For a value of another type; brackets in a text are told how to be quoted."""
    given = _value_of(key, overrides)
    more = ""
    if kind == "str" and given:
        more = f"; if these characters are the value, quote it: {in_quotes(key, given)}"
    return UserError(key, f"{given or value!r} is not of type {kind}{more}")


def _kind_of(key: str) -> str:
    """The type of a setting, as the schema has it."""
    *path, last = key.lstrip("+").split(".")
    node: Any = resolve([])
    for part in path:
        node = getattr(node, part)
    hints = {f.name: f.type for f in fields(node)}
    return str(hints.get(last, "another type"))


def _value_of(key: str, overrides: Sequence[str]) -> str:
    """What an override gives to a key; nothing if none does."""
    given = [o.partition("=")[2] for o in overrides if o.partition("=")[0].lstrip("+") == key]
    # A sweep's jobs have their braces escaped.
    return given[-1].replace(r"$\{", "${").replace(r"\}", "}") if given else ""


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
