"""Reading one's own weights, in whatever they are wrapped."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unlearn import UserError
from unlearn.models import ModelConfig, build
from unlearn.models.checkpoint import load_checkpoint

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fresh() -> nn.Module:
    return build(ModelConfig("small_cnn", "batch", 4), 1, 3, [0.5], [0.5])


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def zeros(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


# What is saved of the whole state and of the inner network's; under which keys and what prefix.
WRAPPED: dict[str, tuple[Callable[[State, State], Any], tuple[str, ...], str]] = {
    "whole": (lambda whole, inner: whole, (), ""),
    "inner": (lambda whole, inner: inner, (), ""),
    "DataParallel": (lambda whole, inner: under("module.", inner), (), "module."),
    "model": (lambda whole, inner: under("model.", inner), (), "model."),
    "net": (lambda whole, inner: under("net.", inner), (), "net."),
    "network of another": (
        lambda whole, inner: under("model.network.", inner),
        (),
        "model.network.",
    ),
    "compiled": (lambda whole, inner: under("_orig_mod.", whole), (), "_orig_mod."),
    "compiled in DataParallel": (
        lambda whole, inner: under("module._orig_mod.", inner),
        (),
        "module._orig_mod.",
    ),
    "compiled inside": (
        lambda whole, inner: under("network._orig_mod.", inner),
        (),
        "network._orig_mod.",
    ),
    "state_dict": (lambda whole, inner: {"state_dict": inner, "epoch": 3}, ("state_dict",), ""),
    "key net": (lambda whole, inner: {"net": inner, "acc": 91.2}, ("net",), ""),
    "key model": (lambda whole, inner: {"model": whole}, ("model",), ""),
    "model_state_dict": (
        lambda whole, inner: {
            "model_state_dict": inner,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        },
        ("model_state_dict",),
        "",
    ),
    "nested": (
        lambda whole, inner: {"checkpoint": {"model": under("module.", inner)}},
        ("checkpoint", "model"),
        "module.",
    ),
    "EMA alone": (lambda whole, inner: {"ema": inner}, ("ema",), ""),
    "EMA beside": (
        lambda whole, inner: {"ema_state_dict": zeros(inner), "state_dict": inner},
        ("state_dict",),
        "",
    ),
    "averaged": (
        lambda whole, inner: {"n_averaged": torch.tensor(3), **under("module.", inner)},
        (),
        "module.",
    ),
    "other tensors beside": (
        lambda whole, inner: {**under("model.", inner), "loss.weight": torch.ones(3)},
        (),
        "model.",
    ),
    "settings beside": (
        lambda whole, inner: {
            "args": argparse.Namespace(lr=0.1),
            "best": np.float64(0.9),
            "state_dict": inner,
        },
        ("state_dict",),
        "",
    ),
    "parameters": (
        lambda whole, inner: {k: nn.Parameter(v, requires_grad=False) for k, v in inner.items()},
        (),
        "",
    ),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_weights_are_found_in_their_wrapping(case: str) -> None:
    wrap, path, prefix = WRAPPED[case]
    given, model = fresh(), fresh()
    held: Any = wrap(given.state_dict(), given.network.state_dict())
    torch.save(held, "given.pt")
    found = load_checkpoint(model, "given.pt")
    inner = model.network.state_dict()
    torch.testing.assert_close(inner, given.network.state_dict(), rtol=0, atol=0)
    assert (found.path, found.prefix) == (path, prefix)
    for key in found.path:
        held = held[key]
    assert all(torch.equal(found.state[own], held[theirs]) for own, theirs in found.names.items())


def test_a_lightning_file_is_taken() -> None:
    class Module(pl.LightningModule):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = fresh().network

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            return self.net(batch).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    module, model = Module(), fresh()
    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch.rand(4, 1, 28, 28), 4))  # type: ignore[arg-type]
    trainer.save_checkpoint("given.ckpt")
    found = load_checkpoint(model, "given.ckpt")
    assert (found.path, found.prefix) == (("state_dict",), "net.")
    torch.testing.assert_close(model.network.state_dict(), module.net.state_dict())


def test_safetensors_and_old_files_without_counters() -> None:
    given = fresh()
    save_file(given.state_dict(), "given.safetensors")
    old = {k: v for k, v in given.state_dict().items() if "num_batches" not in k}
    torch.save(old, "old.pt", _use_new_zipfile_serialization=False)
    for path in ("given.safetensors", "old.pt"):
        model = fresh()
        load_checkpoint(model, path)
        weights = {k: v for k, v in model.state_dict().items() if k in old}
        torch.testing.assert_close(weights, old, rtol=0, atol=0)


def refused(path: str) -> str:
    with pytest.raises(UserError, match=r"^model\.checkpoint: ") as caught:
        load_checkpoint(fresh(), path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_named_on_each_side() -> None:
    inner = fresh().network.state_dict()
    first, *_, last = inner
    torch.save({"a": torch.ones(1)}, "other.pt")
    assert "missing: 0.weight, 1.weight, 1.bias, ..." in refused("other.pt")
    assert "1 unexpected: a" in refused("other.pt")
    torch.save({k: v for k, v in inner.items() if k != first}, "fewer.pt")
    assert "1 missing: 0.weight" in refused("fewer.pt")
    assert "unexpected" not in refused("fewer.pt")
    torch.save({**inner, "more.weight": torch.ones(1)}, "more.pt")
    assert "1 unexpected: more.weight" in refused("more.pt")
    torch.save(under("module.", {**inner, last: torch.ones(7)}), "shape.pt")
    assert f"1 of another shape: {last} (7,) for (3,)" in refused("shape.pt")


class Evil:
    """Runs a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


def test_no_code_is_run() -> None:
    torch.save(Evil(), "evil.pt")
    torch.save({"state_dict": fresh().network.state_dict(), "x": Evil()}, "beside.pt")
    for path in ("evil.pt", "beside.pt"):
        assert "needs Python's code to be read (posix.system)" in refused(path)
    torch.save(fresh(), "model.pt")
    assert "torch.save(model.state_dict(), ...)" in refused("model.pt")
    assert not Path("owned").exists()


def test_what_is_no_checkpoint() -> None:
    Path("noise.safetensors").write_bytes(b"noise")
    Path("noise.pt").write_bytes(b"noise" * 50)
    Path("text.pth").write_text("hello world\n")
    Path("empty.pt").write_bytes(b"")
    torch.save({"a": 1}, "numbers.pt")
    torch.save({"a": torch.zeros(99)}, "broken.pt")
    whole = bytearray(Path("broken.pt").read_bytes())
    start = whole.rindex(b"PK\x01\x02")  # of the ZIP's table of contents
    whole[start : start + 2] = b"??"
    Path("broken.pt").write_bytes(whole)
    for path in (
        "noise.safetensors",
        "noise.pt",
        "text.pth",
        "empty.pt",
        "numbers.pt",
        "broken.pt",
    ):
        assert path in refused(path)
    for path in (".", "absent.pt"):
        assert "cannot be read" in refused(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_network_kept_as_a_program() -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, "program.pt2")
    torch.jit.script(nn.Linear(2, 2)).save("script.pt")
    for path, kind in (("program.pt2", "torch.export"), ("script.pt", "TorchScript")):
        assert kind in refused(path)
        assert "torch.save(model.state_dict(), ...)" in refused(path)
