"""Composing the configuration from conf/ and overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from hydra.initialize import get_gh_backup, restore_gh_from_backup
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unlearn.config.ranges import check_ranges
from unlearn.config.schema import Config, register
from unlearn.errors import UserError, did_you_mean
from unlearn.forget import Settings
from unlearn.relearning import INTENTIONS, Intention

_HERE = Path(__file__).resolve().parents[1]
# A checkout keeps conf/ beside the package, an installed wheel inside it.
CONF = next(p for p in (_HERE / "conf", _HERE.parent / "conf") if p.is_dir())


def names(group: str) -> list[str]:
    """What there is of a group of conf/."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def resolve(overrides: Sequence[str]) -> Config:
    """Compose ``conf/config.yaml`` with overrides, typed but not yet checked."""
    quick = _with_values(overrides)
    return typed(_composed(tuple(overrides)) if quick is None else quick)


def _with_values(overrides: Sequence[str]) -> DictConfig | None:
    """The same as ``_composed``, several times as fast once the same files have been composed.

    Hydra composes the files that the overrides choose; single values are set after it, as it would.

    Returns:
        None for overrides that only Hydra can apply (``+key``, ``~key``, sweeps), and for those
        that it refuses: it says why.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        plain = [o for o in parsed if o.type == OverrideType.CHANGE and not o.is_sweep_override()]
        keys = [o.get_key_element() for o in plain]
        if len(plain) < len(parsed) or any("/" in key or "@" in key for key in keys):
            return None
        groups = {p.name for p in CONF.iterdir() if p.is_dir()}
        choices = [o.input_line for o in plain if o.get_key_element() in groups]
        composed = deepcopy(_composed_once(CONF, tuple(map(str, choices))))
        for override in plain:
            if (key := override.get_key_element()) not in groups:
                _refuse_setting_of_none(composed, key)
                OmegaConf.update(composed, key, override.value())
    except (HydraException, OmegaConfBaseException):
        return None
    return composed


def _refuse_setting_of_none(composed: DictConfig, key: str) -> None:
    """Refuse a setting of a group of which nothing is chosen; OmegaConf would only assert.

    Raises:
        UserError: naming the choices that have settings.
    """
    group, _, setting = key.partition(".")
    if setting and group in composed and composed[group] is None:
        others = ", ".join(name for name in names(group) if name != "none")
        raise UserError(key, f"{group} has no settings as chosen; other choices: {others}")


@cache
def _composed_once(_conf: Path, choices: tuple[str, ...]) -> DictConfig:
    """``_composed`` of files alone."""
    return _composed(choices)


def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """``conf/config.yaml`` with overrides, by Hydra."""
    register()
    before = get_gh_backup()  # a job may be running under Hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=list(overrides))
    finally:
        restore_gh_from_backup(before)


def typed(composed: Any) -> Config:
    """A composed configuration as dataclasses.

    Every interpolation is resolved, but for those of the loggers: what they ask of the run, like
    its folder, is known when it begins.
    """
    _refuse_strangers(composed, "")
    loggers = OmegaConf.to_container(composed.logger)
    composed.logger = {}
    # Once only: a second time an escaped ${...} in a name would be looked up.
    cfg = cast(Config, OmegaConf.to_object(composed))
    cfg.logger = cast(dict[str, Any], loggers)
    return cfg


def settings(scale: str = "paper", *overrides: str) -> Settings:
    """What ``unlearn.forget`` takes, from conf/.

    Args:
        scale: a name in conf/scale.
        overrides: settings as on the command line, ``inversion.steps=500``. With ``recipe=best``
            the intention too, for which it has values of its own.

    Raises:
        UserError: naming the key and what is allowed.

    Example:
        >>> settings("demo", "inversion.steps=500").inversion.steps
        500
    """
    cfg = resolve([f"scale={scale}", *overrides])
    check_ranges(cfg)
    others = [o for o in overrides if not o.startswith("intention")]
    composed = {
        name: resolve([f"scale={scale}", *others, f"intention={name}"])
        for name in INTENTIONS
        if name != cfg.intention.name
    }
    chosen = unlearner_settings(cfg, {name: c.intention for name, c in composed.items()})
    return replace(chosen, not_for=frozenset(n for n, c in composed.items() if _apart(c, cfg)))


def _apart(one: Config, other: Config) -> bool:
    """Whether two configurations have other values of our stages."""
    parts = ("augment", "inversion", "filtration", "relearning")
    return any(getattr(one, part) != getattr(other, part) for part in parts)


def unlearner_settings(cfg: Config, intentions: Mapping[str, Intention] | None = None) -> Settings:
    """The unlearner's part of a configuration, with more intentions beside its own."""
    return Settings(
        cfg.augment,
        cfg.inversion,
        cfg.filtration,
        cfg.relearning,
        cfg.networks,
        {**(intentions or {}), cfg.intention.name: cfg.intention},
        cfg.scale,
        cfg.proxy,
        cfg.rival,
    )


def _refuse_strangers(node: Any, path: str) -> None:
    """Raise for keys that the schema lacks, and for those taken out of it.

    Hydra's ``+key=value`` and ``~key`` let them through.
    """
    schema = OmegaConf.get_type(node)
    if not is_dataclass(schema):
        return
    known = [f.name for f in fields(schema)]
    for key in known:
        if key not in node.keys():  # noqa: SIM118 (else a key whose value is missing counts too)
            raise UserError(f"{path}{key}", f"needs a value: {path}{key}=...")
    for key in node:
        if key not in known:
            raise unknown_key(f"{path}{key}", known)
        if not OmegaConf.is_missing(node, key) and OmegaConf.is_dict(node[key]):
            _refuse_strangers(node[key], f"{path}{key}.")


def unknown_key(name: str, known: Sequence[str]) -> UserError:
    """For a key that does not exist: the nearest one and all its neighbours."""
    parent = name.rpartition(".")[0]
    near = did_you_mean(name, [f"{parent}.{k}" if parent else k for k in known])
    return UserError(name, f"no such setting{near}; there are {', '.join(known)}")
