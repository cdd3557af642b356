"""Registries filled by decorators: one file adds a scenario, an intention, a model or a source."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from typing import Generic, TypeVar

from unlearn.errors import choices

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things. ``kind`` is the setting that chooses among them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._items[name] = item
            return item

        return add

    def list(self, pattern: str = "*") -> list[str]:
        """Registered names that match a glob, sorted."""
        return sorted(n for n in self._items if fnmatch(n, pattern))

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise choices(self.kind, name, self.list())
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.list())


def import_all(package: str, path: list[str]) -> None:
    """Import every module of a package, so that its decorators run."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
