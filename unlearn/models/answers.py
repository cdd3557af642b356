"""What a model computes, in a few digits: weights alone do not tell activations, eps or strides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlearn.engine.precision import Precision, kernels
from unlearn.engine.predict import logits_of
from unlearn.engine.seeding import seeded, seeded_globally
from unlearn.engine.store import hash_of
from unlearn.errors import UserError
from unlearn.models.adapt import copied, tensors_of

IMAGES = 8
DIRECTIONS = 4
# Significant digits that rounding errors leave alone, by the type that was computed in.
DIGITS = {torch.float64: 6, torch.float32: 3}


class Answers(NamedTuple):
    """Logits (B, classes), and whether the model answered just them and left its images alone."""

    logits: Tensor
    plain: bool


def answers(model: nn.Module, images: Tensor, training: bool = False) -> Answers:
    """What a model answers in eval mode, or in train mode, which changes running statistics.

    What the model draws, it draws from a fixed seed; the global random state is left alone.

    Raises:
        UserError: if the model cannot take the images, or answers no logits.
    """
    mode = "train" if training else "eval"
    model.train(training)
    try:
        with torch.no_grad(), seeded_globally(0):
            given = model(taken := images.clone())
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's layers raise
        last = images.dim() == 4 and images.shape[1] > 4 >= images.shape[3]
        hint = "; channels come second: shots.permute(0, 3, 1, 2)" if last else ""
        raise UserError(
            "model", f"in {mode} mode it cannot take images {tuple(images.shape)}: {error}{hint}"
        ) from error
    logits = logits_of(given)
    if logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise UserError(
            "model",
            f"in {mode} mode it answers {tuple(logits.shape)} to {len(images)} images; it must "
            "give logits (B, classes) of at least two classes",
        )
    if not logits.is_floating_point():
        raise UserError("model", f"in {mode} mode it answers {logits.dtype}; logits are floats")
    if not bool(torch.isfinite(logits).all()):
        raise UserError("model", f"in {mode} mode its answers to the shots are NaN or infinite")
    return Answers(logits, given is logits and torch.equal(taken, images))


def check_gradients(original: nn.Module, student: nn.Module, images: Tensor) -> None:
    """Refuse a model through which no gradient goes: nothing could be generated or relearned.

    Args:
        original: in eval mode its images are learnt.
        student: in train mode its weights are; its running statistics change.

    Raises:
        UserError: if there is none.
    """
    made = images.clone().requires_grad_()
    weights = [p for p in student.parameters() if p.requires_grad]
    if not _reaches(original.eval(), made * 1, [made]):  # some layers write over their input
        raise UserError(
            "model",
            "in eval mode its answers have no gradient with respect to its images, as within "
            "torch.no_grad() or after detach(); images could not be generated",
        )
    if not _reaches(student, images.clone(), weights):
        raise UserError(
            "model",
            "in train mode its answers have no gradient with respect to its parameters, as within "
            "torch.no_grad(), in a reentrant checkpoint or where another module computes them; "
            "nothing could be relearned",
        )


@seeded_globally(0)
def _reaches(model: nn.Module, images: Tensor, inputs: Sequence[Tensor]) -> bool:
    """Whether the answers to images hang on one of the inputs."""
    try:
        logits = logits_of(model(images))
        if not logits.requires_grad:
            return False
        found = torch.autograd.grad(logits.sum(), inputs, allow_unused=True)
    except RuntimeError as error:
        raise UserError("model", f"a gradient of its answers cannot be had: {error}") from error
    return any(gradient is not None for gradient in found)


def some_images(shots: Tensor) -> Tensor:
    """At most eight shots and eight images of seeded noise."""
    noise = torch.rand(
        (IMAGES, *shots.shape[1:]), generator=seeded(0, "noise"), dtype=torch.float64
    )
    return torch.cat([shots[:IMAGES], noise.to(shots.device, shots.dtype)])


def what_it_computes(model: nn.Module, shots: Tensor) -> str:
    """16 hex digits for a model's answers to shots and to noise, and for its layers' settings.

    In eval mode, in train mode, and in eval mode after it, which tells how fast running statistics
    move. In float64 where the model can, on one thread, so that the last digits do not matter.
    """
    layers = re.sub(r" at 0x[0-9a-f]+", "", str(model))
    with _repeatable(shots.device):
        numbers = _numbers(model, some_images(shots).double(), torch.float64)
        if numbers is None:
            numbers = _numbers(model, some_images(shots), shots.dtype)
    return hash_of([layers, numbers])


def _numbers(model: nn.Module, images: Tensor, dtype: torch.dtype) -> list[list[str]] | None:
    """Rounded norm and projections of each mode's answers; None if not computed in ``dtype``."""
    copy, default = copied(model), torch.get_default_dtype()
    for _, tensor in tensors_of(copy):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    torch.set_default_dtype(dtype)
    try:
        passes = [answers(copy, images, training).logits for training in (False, True, False)]
    except UserError:  # some layer has a type of its own
        return None
    finally:
        torch.set_default_dtype(default)
    if any(p.dtype != dtype for p in passes):
        return None
    return [_rounded(logits.double(), DIGITS.get(dtype, 3)) for logits in passes]


def _rounded(logits: Tensor, digits: int) -> list[str]:
    """The norm of all answers, and their parts along fixed random directions."""
    norm = logits.norm()
    size = (logits.numel(), DIRECTIONS)
    directions = torch.randn(size, generator=seeded(0, "directions"), dtype=torch.float64)
    parts = logits.flatten() @ directions.to(logits.device) / norm.clamp_min(1e-30)
    return [f"{float(norm):.{digits - 1}e}", *(f"{v:.{digits}f}" for v in parts.tolist())]


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """One thread, and on a GPU kernels that give the same numbers every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with kernels(Precision("fp32"), device):
            yield
    finally:
        torch.set_num_threads(threads)
