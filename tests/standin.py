"""A GPU where there is none: tensors that say they are on ``cuda:0``, hold others that the CPU
computes with, and refuse, as a GPU's do, to be mixed with the CPU's.

It finds what a machine without a GPU would not: a tensor or generator left behind, and, if torch
is asked to refuse it, what the host waits for and what a GPU gives other numbers for each time. It
says nothing about speed, memory, rounding or TF32, and in autocast nothing changes.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
# A GPU adds up in whichever order it comes (``torch.use_deterministic_algorithms``).
UNORDERED = [
    "scatter_add",
    "scatter_add_",
    "scatter_reduce",
    "index_add",
    "index_add_",
    "histc",
    "grid_sampler_2d_backward",
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "upsample_bilinear2d_backward",
    "reflection_pad2d_backward",
    "replication_pad2d_backward",
    "nll_loss2d_forward",
]
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


def _on_gpu(device: Any) -> bool:
    # To torch's C++ part the stand-ins are on "meta", whose gradients need no driver.
    return device is not None and torch.device(device).type in ("cuda", "meta")


class There(Tensor):
    """A tensor "on the GPU"; ``here`` is the CPU's that it stands for."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda _: GPU)
    is_cuda = property(lambda _: True)
    is_meta = property(lambda _: False)

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device="meta",
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"There({self.here})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            made = There(self.here.detach().clone()).requires_grad_(self.requires_grad)
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(made, made.requires_grad) if is_parameter else made
        return memo[id(self)]

    def get_device(self) -> int:
        return 0

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def new_tensor(self, data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or GPU)


class StandIn(TorchDispatchMode):
    waiting = "default"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    target = kwargs.get("device")
    if func is COPIES[0]:
        gives = isinstance(args[0], There)
    else:
        gives = bool(there) if target is None else _on_gpu(target)
    if there and func not in COPIES:
        _refuse_mixture(func, args, tensors)
    if StandIn.waiting == "error" and (there or gives) and _waits(func, args, kwargs, gives):
        raise RuntimeError(f"{func}: the host waits for the GPU")
    if there and torch.are_deterministic_algorithms_enabled():
        accumulates = func.overloadpacket.__name__ in INDEXING[1:] and True in args[3:4]
        if accumulates or func.overloadpacket.__name__ in UNORDERED:
            raise RuntimeError(f"{func} does not have a deterministic implementation")
    for rng in leaves:
        if isinstance(rng, Plain) and (rng._cdata in Generator.gpus) != gives:
            raise RuntimeError(f"{func}: a generator and a result on different devices")
    if _on_gpu(target):
        kwargs = kwargs | {"device": CPU}

    def here(x: Any) -> Any:
        return x.here if isinstance(x, There) else x

    answer = func(*tree_map(here, args), **tree_map(here, kwargs))
    if there and torch.Tag.inplace_view in func.tags:
        with no_dispatch():  # what torch's C++ part thinks of its shape
            func(*args, **kwargs)
    known = {id(x.here): x for x in there}

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else There(x) if gives else x

    return tree_map(wrapped, answer)


def _refuse_mixture(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """Numbers of no dimension may be anywhere, and indices on the CPU."""
    name = func.overloadpacket.__name__
    for x in tensors:
        index = (
            name in INDEXING
            and isinstance(args[0], There)
            and not any(x is value for value in args[2:3])
        )
        if not (isinstance(x, There) or index or (x.dim() == 0 and name not in ("cat", "stack"))):
            raise RuntimeError(f"{func}: tensors on cuda:0 and on cpu")


def _waits(func: Any, args: Any, kwargs: dict[str, Any], gives: bool) -> bool:
    """Whether the answer needs numbers of the GPU, or the GPU numbers of the host."""
    name = func.overloadpacket.__name__
    if func in COPIES:
        to_copy = isinstance(args[1 if func is COPIES[0] else 0], There) != gives
        return to_copy and not (kwargs.get("non_blocking") or args[2:3] == (True,))
    if name in INDEXING:
        indices = [i for i in args[1] if i is not None]
        masks = (torch.bool, torch.uint8)
        return any(not isinstance(i, There) or i.dtype in masks for i in indices)
    return name in ("_local_scalar_dense", "nonzero", "masked_select", "equal")


Plain = torch.Generator


class Generator(Plain):
    """The CPU's, but of the device that it is made for."""

    gpus: ClassVar[set[int]] = set()

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        known = cls.gpus.add if _on_gpu(device) else cls.gpus.discard
        known(made._cdata)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:
        return GPU if self._cdata in self.gpus else CPU


def _made_on_host(plain: Any) -> Any:
    def made(data: Any, *, dtype: Any = None, device: Any = None, **how: Any) -> Tensor:
        if isinstance(data, There) and device is None:
            device = GPU
        if not _on_gpu(device):
            return plain(data, dtype=dtype, device=device, **how)
        data = data if isinstance(data, Tensor) else plain(data, dtype=dtype)
        return data.to(device, dtype)

    return made


def install(patch: pytest.MonkeyPatch) -> StandIn:
    """Make torch believe in one GPU; within the mode that is given back it has one."""
    torch._C._ensureCUDADeviceGuardSet()
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "is_current_stream_capturing": False,
        "is_bf16_supported": False,
        "get_device_name": "a stand-in",
        "get_device_capability": (7, 0),
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "max_memory_allocated": 0,
    }
    silent = (
        "_lazy_init set_device synchronize empty_cache set_rng_state manual_seed manual_seed_all "
        "reset_peak_memory_stats"
    )
    for name, answer in (answers | dict.fromkeys(silent.split())).items():
        patch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    patch.setattr(StandIn, "waiting", "default")
    patch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(StandIn, "waiting", mode))
    patch.setattr(torch, "Generator", Generator)
    for name in ("tensor", "as_tensor"):  # which C++ fills behind the mode's back
        patch.setattr(torch, name, _made_on_host(getattr(torch, name)))
    # Views of inference tensors cannot be wrapped.
    patch.setattr(torch, "inference_mode", lambda on=True: torch.no_grad() if on else nullcontext())
    return StandIn()
