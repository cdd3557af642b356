"""Reading one's own weights: safetensors, or a state dict; never a pickle that runs code."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unlearn.errors import UserError


def read_state(path: str) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a ``torch.save``d state dict.

    Raises:
        UserError: if the file cannot be read, or holds anything but tensors.
    """
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            "model.checkpoint", f"{path!r} is no safetensors file or plain state dict ({reason})"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError("model.checkpoint", f"{path!r} is no state dict of tensors")
    return state


def load_checkpoint(model: nn.Module, path: str) -> None:
    """Load weights into ``model``; those of its inner network alone will do.

    Raises:
        UserError: if they do not fit.
    """
    state = read_state(path)
    inner = getattr(model, "network", model)
    target = model if set(state) == set(model.state_dict()) else inner
    try:
        target.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError("model.checkpoint", f"{path!r} does not fit the model: {reason}") from error


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
        raise UserError("model.checkpoint", f"{path!r} cannot be read ({error})") from error
