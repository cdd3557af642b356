"""Networks that a function of one's own makes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from unlearn.engine.store import hash_of
from unlearn.errors import UserError
from unlearn.models.adapt import unwrapped
from unlearn.models.checkpoint import checkpoint_identity, load_checkpoint
from unlearn.models.origin import ORIGINS, AnyModel, Size, Trained, given_arguments
from unlearn.models.saving import FileWeights

KEY = "model.factory"


@ORIGINS.register("python")
@dataclass
class FromPython(AnyModel):
    """What a function or a class makes.

    Attributes:
        factory: ``module:callable``; modules in the current folder are found too.
        arguments: that it is called with.
    """

    factory: str | None = None
    arguments: Any = None

    def check(self) -> None:
        super().check()
        given_arguments(self.arguments)
        self._callable()

    def fresh(self, channels: int, classes: int, size: Size) -> nn.Module:
        make, arguments = self._callable(), given_arguments(self.arguments)
        try:
            made = make(**arguments)
        except Exception as error:  # whatever a stranger's code raises
            what = f"{type(error).__name__}: {error}"
            raise UserError(KEY, f"{self.factory} with {arguments} failed ({what})") from error
        if not isinstance(made, nn.Module):
            raise UserError(
                KEY, f"{self.factory} gives a {type(made).__name__}, no torch.nn.Module"
            )
        return unwrapped(made)

    def trained(self, size: Size) -> Trained:
        path = self.needed_checkpoint()
        network = self.fresh(0, 0, size)
        return Trained(network, FileWeights(path, load_checkpoint(network, path)))

    def identity(self) -> str:
        """The checkpoint's contents, and those of the file that makes the network."""
        own = super().identity()
        with importing_from_here():
            spec = find_spec(str(self.factory).partition(":")[0])
        code = spec.origin if spec is not None else None
        if code is None or not Path(code).is_file():
            return own
        return hash_of([own, checkpoint_identity(code)])

    def _callable(self) -> Any:
        module, colon, path = (self.factory or "").partition(":")
        if not module or not colon or not path:
            raise UserError(
                KEY,
                f"needs module:callable, such as nets:build of nets.py in this folder, not "
                f"{self.factory!r}",
            )
        try:
            with importing_from_here():
                found: Any = importlib.import_module(module)
        except Exception as error:  # whatever a stranger's code raises
            raise UserError(
                KEY, f"{module!r} cannot be imported ({type(error).__name__}: {error})"
            ) from error
        for name in path.split("."):
            if not hasattr(found, name):
                raise UserError(KEY, f"there is no {path!r} in {module!r}")
            found = getattr(found, name)
        if not callable(found):
            raise UserError(KEY, f"{self.factory} is a {type(found).__name__} and cannot be called")
        return found


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Within, modules in the current folder can be imported."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
