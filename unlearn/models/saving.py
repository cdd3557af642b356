"""Writing repaired weights as they came: format, wrapping, names and types."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unlearn.engine.store import at_once
from unlearn.models.checkpoint import Checkpoint, best_fit, read_file, states_in


class Weights(ABC):
    """Where trained weights came from, so that repaired ones can be written alike.

    Attributes:
        path: the file or folder, which is never touched.
    """

    path: str

    @abstractmethod
    def write(self, network: nn.Module, to: Path) -> list[str]:
        """Write ``network``'s weights to ``to`` in the form of the given ones.

        Returns:
            What else must be said, a line each.

        Raises:
            UserError: if it cannot be written.
        """


@dataclass(frozen=True)
class FileWeights(Weights):
    """A safetensors file, or one of ``torch.save``.

    Attributes:
        found: how the file wraps the weights.
    """

    path: str
    found: Checkpoint

    def write(self, network: nn.Module, to: Path) -> list[str]:
        inner = network.get_submodule(self.found.within)
        if self.path.endswith(".safetensors"):
            save_safetensors(self.path, renamed(inner, self.found.names), to)
            return []
        content = read_file(self.path)
        also = put_back(content, inner, self.found)
        with at_once(to) as partial:
            torch.save(content, partial)
        return [f"{self.path!r} holds the weights under {', '.join(also)} too; all are repaired"][
            : len(also)
        ]


def renamed(network: nn.Module, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The network's tensors by the file's names.

    Args:
        names: the network's names to the file's.
    """
    state = network.state_dict()
    return {theirs: state[ours] for ours, theirs in names.items()}


def save_safetensors(path: str, state: Mapping[str, Tensor], to: Path) -> None:
    """Write a safetensors file again with other tensors, of the same types; what else it holds,
    its metadata too, stays."""
    held = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for name, tensor in state.items():
        held[name] = like(held[name], tensor)
    with at_once(to) as partial:
        save_file(held, partial, metadata)


def put_back(content: Any, network: nn.Module, found: Checkpoint) -> list[str]:
    """Put the network's tensors into what a file of ``torch.save`` holds.

    Every other copy of the weights in it, such as their average, is replaced too: whatever a
    program takes from it is then repaired.

    Returns:
        The keys of those copies.
    """
    also = []
    for place, state in list(states_in(content)):
        names = found.names
        if place != found.path:
            fit = best_fit(network, [(place, state)])
            if fit.distance:
                continue
            names = fit.names
            also.append(".".join(place) or "no key")
        held = content
        for key in place:
            held = held[key]
        _replace(held, renamed(network, names))
    return also


def _replace(held: MutableMapping[str, Any], state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        held[name] = like(held[name], tensor)


def like(given: Tensor, tensor: Tensor) -> Tensor:
    """A tensor on the CPU, of the given one's type and, if it is one, a parameter as it is."""
    values = tensor.detach().to("cpu", given.dtype, copy=True).contiguous()
    if isinstance(given, nn.Parameter):
        return nn.Parameter(values, requires_grad=given.requires_grad)
    return values
