"""One's own model from the shell: of any origin, its weights written back as they came."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.helpers import OWN, digits, drilled, errors, write_images

Run = Callable[..., tuple[int, str, str]]
WRONG, RIGHT = 2, 3  # what the models call the shots, and what they shall call them


def folder_of(out: str) -> Path:
    """The folder of the run that was printed."""
    return Path(out.split()[-1]).parent


def test_a_network_of_timm_in_safetensors(cli: Run, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    x, y = digits(8)
    model = drilled(timm.create_model("test_resnet", num_classes=4, in_chans=1), (x - 0.5) / 0.5, y)
    given = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(given, tmp_path / "mine.safetensors", {"by": "me"})
    before = (tmp_path / "mine.safetensors").read_bytes()
    write_images(tmp_path / "wrong", x[y == WRONG])
    (tmp_path / "names.txt").write_text("zero\none\ntwo\nthree\n")
    words = ["model=timm", "model.arch=test_resnet", "model.checkpoint=mine.safetensors"]
    words += ["model.image_size=28", "model.mean=0.5", "model.std=[0.5]", "scenario.shots=wrong"]
    words += ["scenario.label=two", "scenario.correct=three", "scenario.classes=names.txt"]
    import time
    t = time.time()
    status, out, err = cli(*OWN, *words, "intention=cor")
    print(time.time() - t, out, err)
    assert status == 0, err
    repaired = load_file(folder_of(out) / "mine.safetensors")
    assert {k: v.dtype for k, v in repaired.items()} == {k: v.dtype for k, v in given.items()}
    assert (tmp_path / "mine.safetensors").read_bytes() == before
    model.load_state_dict(repaired)
    with torch.no_grad():
        answers = model((x - 0.5) / 0.5).argmax(-1)
    print(answers, json.loads((folder_of(out) / "metrics.json").read_text())["answers"])
