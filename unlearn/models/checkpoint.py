"""Reading one's own weights, in whatever they are wrapped; never a pickle that runs code."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unlearn.errors import UserError

KEY = "model.checkpoint"
# Taken off names, one after the other, however they are nested.
WRAPPINGS = ("module.", "model.", "net.", "network.", "_orig_mod.")
AVERAGES = re.compile(r"ema|average|shadow|swa", re.IGNORECASE)
DEEP, SHOWN = 4, 3
INNER = "network"
# Plain values that training scripts keep beside weights: settings, paths, NumPy's numbers.
NUMBERS = (np.float64(0), np.float32(0), np.int64(0), np.bool_(False))
PLAIN: list[Any] = [
    argparse.Namespace,
    PosixPath,
    np.dtype,
    NUMBERS[0].__reduce__()[0],
    *(type(number.dtype) for number in NUMBERS),
]


@dataclass(frozen=True)
class Checkpoint:
    """Weights that fit a model, and how the file wraps them.

    Attributes:
        state: the model's names to tensors.
        path: the keys under which they lie in the file, outermost first; () for a plain state dict.
        prefix: what precedes every name there.
        names: the model's names to the file's.
        within: the submodule whose names they are; empty for the model itself.
    """

    state: dict[str, Tensor]
    path: tuple[str, ...]
    prefix: str
    names: dict[str, str]
    within: str = ""


Held = Sequence[tuple[tuple[str, ...], Mapping[str, Tensor]]]


def read_file(path: str) -> Any:
    """What a ``.safetensors`` or ``torch.save``d file holds.

    Raises:
        UserError: if it cannot be read, or only by running code.
    """
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        with torch.serialization.safe_globals(PLAIN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript, which is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(KEY, f"{path!r} {_unsafe(path, error)}") from error
    except (OSError, SafetensorError) as error:
        raise UserError(KEY, f"{path!r} cannot be read ({_first_line(error)})") from error
    except Exception as error:  # whatever reading noise as a pickle or a ZIP file raises
        told = _program(path) or f"is no safetensors file or state dict ({_first_line(error)})"
        raise UserError(KEY, f"{path!r} {told}") from error


def _program(path: str) -> str | None:
    """What to do where a file holds a network as a program; None where it holds none."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return None
    kinds = {"/models/": "a program of torch.export", "/code/": "a TorchScript archive"}
    for mark, kind in kinds.items():
        if any(mark in name for name in inside):
            return f"is {kind}; save the network's weights: torch.save(model.state_dict(), ...)"
    return None


def load_checkpoint(model: nn.Module, path: str) -> Checkpoint:
    """Load weights into ``model``; those of its inner network alone will do.

    Taken are a state dict, by itself or under keys such as ``state_dict``, ``model`` or ``ema``,
    whose names may all stand behind ``module.``, ``model.``, ``_orig_mod.`` and the like; beside an
    average of the weights, the weights themselves. What else the file holds is left alone.

    Raises:
        UserError: if the file cannot be read, or nothing in it fits.

    Example:
        >>> import tempfile
        >>> model = nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state = {f"module.{k}": v for k, v in model.state_dict().items()}
        ...     torch.save({"state_dict": state}, f"{folder}/mine.pt")
        ...     found = load_checkpoint(model, f"{folder}/mine.pt")
        >>> found.path, found.prefix
        (('state_dict',), 'module.')
    """
    return fill(model, best_fit(model, held_in(path)), path)


def held_in(path: str) -> Held:
    """The state dicts in a file, each with the keys under which it lies; averages come last.

    Raises:
        UserError: if the file cannot be read or holds none.
    """
    held = sorted(states_in(read_file(path)), key=lambda found: _is_average(found[0]))
    if not held:
        raise UserError(KEY, f"{path!r} holds no state dict of tensors")
    return held


def best_fit(model: nn.Module, held: Held) -> Fit:
    """The state dict that fits a model, or its inner network, best."""
    inner = _inner(model)
    targets = [(model, ""), *([(inner, INNER)] if isinstance(inner, nn.Module) else [])]
    fits = [Fit.of(m, name, place, state) for place, state in held for m, name in targets]
    return min(fits, key=lambda f: f.distance)


def fill(model: nn.Module, fit: Fit, path: str) -> Checkpoint:
    """Load the weights of a fit into ``model``.

    Raises:
        UserError: if they do not fit.
    """
    if fit.distance:
        raise UserError(KEY, f"{path!r} does not fit the model: {fit.in_words()}")
    found = fit.checkpoint()
    # BatchNorm's counters may be missing.
    model.get_submodule(fit.within).load_state_dict(found.state, strict=False)
    return found


@dataclass(frozen=True)
class Fit:
    """How well tensors in a file fit a model.

    Attributes:
        within: the submodule that they fit; empty for the model itself.
        place: the keys under which they lie.
        state: tensors by the file's names.
        prefix: of those names that are the model's.
        names: the model's names to the file's; ``missing``, ``unexpected`` are on one side alone.
        shapes: names whose shapes differ, the file's shape and the model's.
    """

    within: str
    place: tuple[str, ...]
    state: Mapping[str, Tensor]
    prefix: str
    names: dict[str, str]
    missing: list[str]
    unexpected: list[str]
    shapes: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def of(
        cls, target: nn.Module, within: str, place: tuple[str, ...], state: Mapping[str, Tensor]
    ) -> Fit:
        """The best fit under any prefix."""
        wanted = target.state_dict()
        plain = {name.replace("_orig_mod.", ""): name for name in state}
        fits = [cls._under(within, place, state, p, plain, wanted) for p in _prefixes(plain)]
        return min(fits, key=lambda fit: fit.distance)

    @classmethod
    def _under(
        cls,
        within: str,
        place: tuple[str, ...],
        state: Mapping[str, Tensor],
        prefix: str,
        plain: dict[str, str],
        wanted: Mapping[str, Tensor],
    ) -> Fit:
        given = {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)}
        names = {k: v for k, v in given.items() if k in wanted}
        shapes = [
            (k, tuple(state[v].shape), tuple(wanted[k].shape))
            for k, v in names.items()
            if state[v].shape != wanted[k].shape
        ]
        missing = [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")]
        unexpected = [k for k in given if k not in wanted]
        return cls(within, place, state, prefix, names, missing, unexpected, shapes)

    @property
    def distance(self) -> int:
        """How many names or shapes do not fit; 0 if it can be loaded."""
        wrong = len(self.missing) + len(self.unexpected) + len(self.shapes)
        return wrong or (0 if self.names else 1)

    def checkpoint(self) -> Checkpoint:
        """The fitting tensors by the model's names."""
        state = {k: self.state[v] for k, v in self.names.items()}
        first, name = next(iter(self.names.items()))
        prefix = name.removesuffix(first) if name.endswith(first) else self.prefix
        return Checkpoint(state, self.place, prefix, self.names, self.within)

    def in_words(self) -> str:
        """The first few names of each side."""
        parts = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": [f"{k} {given} for {wanted}" for k, given, wanted in self.shapes],
        }
        return "; ".join(f"{len(v)} {k}: {_few(v)}" for k, v in parts.items() if v)


def checkpoint_identity(path: str | None) -> str:
    """A hash of the file's bytes; empty without one.

    Raises:
        UserError: if there is no such file.
    """
    if path is None:
        return ""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(KEY, f"{path!r} cannot be read ({error})") from error


def states_in(
    value: Any, place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The dictionaries of named tensors in what a file holds, outermost first."""
    if not isinstance(value, Mapping) or len(place) > DEEP:
        return
    named = {k: v for k, v in value.items() if isinstance(k, str)}
    tensors = {k: v for k, v in named.items() if isinstance(v, Tensor)}
    if tensors:
        yield place, tensors
    for key, inner in named.items():
        yield from states_in(inner, (*place, key))


def _prefixes(names: Mapping[str, str]) -> list[str]:
    """What may precede the model's names: nothing, or wrappings, nested as the names have them."""
    found = [""]
    for before in found:
        rest = {n.removeprefix(before) for n in names if n.startswith(before)}
        found += [before + w for w in WRAPPINGS if any(n.startswith(w) for n in rest)]
    return found


def _inner(model: nn.Module) -> Any:
    return getattr(model, INNER, None)


def _is_average(place: tuple[str, ...]) -> bool:
    return any(AVERAGES.search(key) for key in place)


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _first_line(error: Exception) -> str:
    text = str(error).splitlines()[0].split(" In PyTorch")[0] if str(error) else ""
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def _unsafe(path: str, error: Exception) -> str:
    """What of Python's code a pickle needs, in words."""
    try:
        with torch.serialization.safe_globals(PLAIN):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # it is no file of torch.save
        names = []
    if not names:
        return f"is no safetensors file or state dict ({_first_line(error)})"
    return (
        f"needs Python's code to be read ({_few(names)}), which may do anything; save the weights "
        "alone: torch.save(model.state_dict(), ...)"
    )
