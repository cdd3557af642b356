"""Stages of a run: what each is known by, and how one is taken from the store or computed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from unlearn.engine.precision import Precision
from unlearn.engine.store import Entry, Store, hash_of


class Stage(ABC):
    """A part of a run whose result is kept.

    Attributes:
        name: the folder of its results in the store.
        VERSION: raised whenever its code gives other numbers than before; results of other
            versions are then computed anew.
    """

    name: str
    VERSION: int

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """The settings that its result depends on, JSON-like."""


def later(off: Any) -> Any:
    """A dataclass's field that came after results were kept. With its value ``off`` it is no part
    of what they are known by, so that those from before are found again."""
    return field(default=off, metadata={"off": off})


def settings_of(cfg: Any) -> dict[str, Any]:
    """A dataclass of settings as a result is known by them.

    Example:
        >>> @dataclass
        ... class Some:
        ...     steps: int = 3
        ...     mixup: float = later(off=0.0)
        >>> settings_of(Some()), settings_of(Some(mixup=0.5))
        ({'steps': 3}, {'steps': 3, 'mixup': 0.5})
    """
    own = asdict(cfg)
    for entry in fields(cfg):
        if "off" in entry.metadata and own[entry.name] == entry.metadata["off"]:
            del own[entry.name]
    return own


@dataclass(frozen=True)
class Computed:
    """In which way a stage is computed, where that changes the last digits of its numbers.

    Attributes:
        device: ``cpu`` or ``cuda``.
        precision: of its networks, ``float32``, ``tf32`` or ``bfloat16``.
        compile: whether by torch.compile.
        threads: of the CPU; None on a GPU, where they do not matter.
    """

    device: str
    precision: str
    compile: bool | str
    threads: int | None

    @classmethod
    def here(cls, device: torch.device, precision: Precision) -> Computed:
        """As this process computes now."""
        threads = torch.get_num_threads() if device.type == "cpu" else None
        return cls(device.type, precision.in_words(device), precision.compile, threads)


def key_of(stage: Stage, before: object, computed: Computed) -> dict[str, Any]:
    """All that a stage's result depends on.

    Args:
        before: what it builds on: the hash of the stage before it, or a description of the data.
    """
    return {
        "stage": stage.name,
        "version": stage.VERSION,
        "settings": stage.key(),
        "before": before,
        "computed": asdict(computed),
    }


def chain(stages: Iterable[Stage], root: object, computed: Computed) -> list[tuple[str, str]]:
    """Name and key hash of stages that build on each other, the first one on ``root``."""
    found, before = [], root
    for stage in stages:
        before = hash_of(key_of(stage, before, computed))
        found.append((stage.name, before))
    return found


@dataclass
class Stages:
    """Stages that build on each other, each taken from the store or computed.

    Attributes:
        root: what the first one builds on.
        store: None keeps nothing.
        keys, versions, seconds: of each stage so far; seconds as first computed.
    """

    root: object
    computed: Computed
    store: Store | None = None
    keys: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: Stage, make: Callable[[], Entry]) -> Entry:
        """The stage's tensors and remark."""
        key = key_of(stage, self.root, self.computed)

        def timed() -> Entry:
            start = time.perf_counter()
            tensors, remark = make()
            return tensors, {**remark, "seconds": time.perf_counter() - start}

        entry = self.store.get(stage.name, key, timed) if self.store else timed()
        self.root = self.keys[stage.name] = hash_of(key)
        self.versions[stage.name] = stage.VERSION
        self.seconds[stage.name] = float(entry[1]["seconds"])
        return entry
