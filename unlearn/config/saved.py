"""A run's configuration, read back from the ``config.yaml`` in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from unlearn.config.compose import typed
from unlearn.config.schema import COMPETITORS, Config
from unlearn.errors import UserError
from unlearn.models import model_class
from unlearn.registry import Registry
from unlearn.relearning import INTENTIONS
from unlearn.scenarios import SCENARIOS
from unlearn.standins import STANDINS

# Their ``name`` says which class their other settings belong to.
CHOSEN: Mapping[str, Registry[Any]] = {
    "scenario": SCENARIOS,
    "intention": INTENTIONS,
    "baseline": COMPETITORS,
    "proxy": STANDINS,
}


def read_config(path: Path) -> Config:
    """The configuration that a ``config.yaml`` holds.

    Raises:
        UserError: if it cannot be read, or was written for other settings than there are now.
    """
    try:
        written: Any = OmegaConf.load(path)
        schema = OmegaConf.structured(Config)
        for key, registry in CHOSEN.items():
            if written.get(key) is not None:
                schema[key] = OmegaConf.structured(registry[written[key].name])
        schema.model = OmegaConf.structured(model_class(written.model.name))
        return typed(OmegaConf.merge(schema, written))
    except (OSError, UnicodeError, YAMLError, AttributeError, TypeError) as error:
        raise UserError("config.yaml", f"cannot be read ({error})") from error
    except OmegaConfBaseException as error:
        raise UserError("config.yaml", f"does not fit this version ({error})") from error
