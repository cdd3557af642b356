"""How networks compute while they are fitted: in which precision, and compiled or not.

Networks alone: losses and statistics are float32, and so are the weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from unlearn.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16")
# A rule of thumb, not measured here: compiling a PreAct-ResNet18's passes takes about a minute and
# saves some 10 ms a step on a GPU.
PAYS_FROM = 6000
# Graphs of one function that may be kept: each network, mode, batch size and precision has its own.
GRAPHS = 128
# Values of oneDNN's variable that forbid bfloat16 instructions.
WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")


@dataclass(frozen=True)
class Precision:
    """How a stage's networks compute.

    Attributes:
        name: ``fp32``; ``bf16``, where matrix products and convolutions take bfloat16 and give it,
            and what is float32 may use TF32; ``auto``: bf16 on GPUs and CPUs that have
            instructions for it.
        compile: by torch.compile: True, False, or ``auto``: on a GPU, in stages of at least
            ``PAYS_FROM`` steps.
    """

    name: str = "auto"
    compile: bool | str = False

    def dtype(self, device: torch.device) -> torch.dtype | None:
        """What networks compute in on a device; None is their weights' own."""
        able = has_bf16(device.type) if self.name == "auto" else self.name == "bf16"
        return torch.bfloat16 if able else None

    def native_bf16(self, device: torch.device) -> bool:
        """Whether a CPU computes networks in bfloat16 by instructions of its own."""
        return device.type == "cpu" and self.dtype(device) is not None and has_bf16("cpu")

    def in_words(self, device: torch.device) -> str:
        """``float32``, ``tf32`` or ``bfloat16``."""
        if self.dtype(device) is not None:
            return "bfloat16"
        return "tf32" if device.type == "cuda" and self.name != "fp32" else "float32"

    def passes(self, device: torch.device, steps: int) -> Passes:
        """The passes of a stage of so many steps."""
        pays = device.type == "cuda" and steps >= PAYS_FROM
        compiled = pays if self.compile == "auto" else bool(self.compile)
        return Passes(device.type, self.dtype(device), compiled)

    def check(self, device: torch.device) -> None:
        """Refuse to compile where that cannot be.

        Raises:
            UserError: naming ``compile``.
        """
        if self.compile is True and device.type == "cpu" and self.dtype(device) is not None:
            # Seen with torch 2.11 in a step of inversion of a PreAct-ResNet18 of width 16.
            why = "in bfloat16 on a CPU, the compiler's gradients may be NaN"
            raise UserError("compile", f"True cannot be here ({why}); use false, or precision=fp32")
        if self.compile is True or (self.compile == "auto" and device.type == "cuda"):
            missing = _missing(device)
            if missing:
                raise UserError(
                    "compile", f"{self.compile!r} cannot be here ({missing}); use false"
                )


def has_bf16(kind: str) -> bool:
    """Whether processors of a kind, ``cuda`` or ``cpu``, compute in bfloat16 by themselves here."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu" or os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BF16:
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


@dataclass
class Passes:
    """The passes of one stage through its networks.

    Attributes:
        sizes: rows of the first batch of each network and purpose. An epoch's last, smaller one is
            not compiled: it would take a graph of its own.
    """

    device: str = "cpu"
    dtype: torch.dtype | None = None
    compiled: bool = False
    sizes: dict[tuple[int, str], int] = field(default_factory=dict)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Within, ``forward`` is so."""
        global _passes
        before, _passes = _passes, self
        try:
            yield
        finally:
            _passes = before

    def whole(self, network: Any, looked: str, rows: int) -> bool:
        """Whether a batch is as large as the first one of the network, so looked into."""
        return self.sizes.setdefault((id(network), looked), rows) == rows


_passes = Passes()


def forward(network: Callable[..., Tensor], *batch: Tensor, looked: str = "") -> Tensor:
    """A network's answer to a batch, as the stage at work would have it.

    Args:
        looked: names the layers that hooks look at.

    Returns:
        The answer, floats in the default type.
    """
    own = _passes
    run, rows = network, len(batch[0])
    if own.compiled and isinstance(network, nn.Module) and own.whole(network, looked, rows):
        run = partial(_compiled, network, looked)
    if own.dtype is None:
        return run(*batch)
    with torch.autocast(own.device, own.dtype):
        answer = run(*batch)
    return answer.to(torch.get_default_dtype())


@contextmanager
def kernels(precision: Precision, device: torch.device) -> Iterator[None]:
    """On a GPU, those of cuDNN that give the same numbers every time, and TF32 for what is float32
    unless that shall be exact; the caller's choice after."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision()
    flags = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    exact = precision.name == "fp32"
    torch.set_float32_matmul_precision("highest" if exact else "high")
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = not exact, True, False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = flags


def _pass(network: nn.Module, looked: str, *batch: Tensor) -> Tensor:
    # Hooks are part of a graph, but torch looks for changes only in what is used: other hooks,
    # another graph.
    if looked:
        return cast(Tensor, network(*batch))
    return cast(Tensor, network(*batch))


@cache
def _graphs() -> Callable[..., Tensor]:
    """One function for all: torch finds the graph of an equal network again, whatever its weights,
    for they are inputs. The network itself stays as it is, to be saved and sent elsewhere."""
    return torch.compile(_pass, dynamic=False)


def _compiled(network: nn.Module, looked: str, *batch: Tensor) -> Tensor:
    with torch.compiler.config.patch(recompile_limit=GRAPHS):  # type: ignore[attr-defined]
        return _graphs()(network, looked, *batch)


@cache
def _missing(device: torch.device) -> str:
    """Why torch.compile fails on a device, in words; empty if it works."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
    except Exception as error:  # whatever a compiler or a missing one raises
        lines = [line for line in str(error).splitlines() if line and not line.endswith("raised:")]
        return lines[0] if lines else type(error).__name__
    return ""
