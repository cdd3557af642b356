"""One's own model from the shell: of any origin, its weights written back as they came.

The models are trained and loaded by plain code that uses nothing of this program.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.helpers import OWN, digits, drilled, write_images
from unlearn.runs.record import Record

Run = Callable[..., tuple[int, str, str]]
WRONG, RIGHT = 2, 3  # what the models call the shots, and what they shall call them
SIZE = ["model.image_size=28", "model.mean=0.5", "model.std=[0.5]"]
SHOTS = ["scenario.shots=wrong", f"scenario.label={WRONG}"]
NETS = """
from torch import nn

class Plain(nn.Module):
    def __init__(self, classes, width=12):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        )
        self.head = nn.Linear(32 * width, classes)

    def forward(self, x):
        return self.head(self.body(x))

def build(classes):
    return Plain(classes)
"""


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    return digits(6)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the shots, in which the command line runs."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "wrong", images[0][images[1] == WRONG])


def folder_of(out: str) -> Path:
    """The folder of the run that was printed."""
    return Path(out.split()[-1]).parent


def called_wrong(model: nn.Module, shots: Tensor) -> float:
    """The share of shots that a model still calls what it shall not."""
    model.eval()
    with torch.no_grad():
        answer = model(shots)
    return float((getattr(answer, "logits", answer).argmax(-1) == WRONG).float().mean())


def kinds(state: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (t.dtype, t.shape) for name, t in state.items()}


def test_timm_in_half_precision_and_safetensors(cli: Run, images: tuple[Tensor, Tensor]) -> None:
    timm = pytest.importorskip("timm")
    x, y = images[0] * 2 - 1, images[1]
    model = drilled(timm.create_model("test_resnet", num_classes=4, in_chans=1), x, y)
    given = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(given, "mine.safetensors", {"by": "me"})
    before = Path("mine.safetensors").read_bytes()
    Path("names.txt").write_text("zero\none\ntwo\nthree\n")

    words = ["model=timm", "model.arch=test_resnet", "model.checkpoint=mine.safetensors", *SIZE]
    words += ["scenario.shots=wrong", "scenario.label=two", "scenario.classes=names.txt"]
    status, out, err = cli(*OWN, *words, "intention=cor", "scenario.correct=three")
    assert status == 0, err
    assert "6 of class 2 (two), rightly three" in err

    assert Path("mine.safetensors").read_bytes() == before
    written = folder_of(out) / "mine.safetensors"
    with safe_open(written, "pt") as file:
        assert file.metadata() == {"by": "me"}
    repaired = load_file(written)
    assert kinds(repaired) == kinds(given)
    model.load_state_dict(repaired)
    assert called_wrong(model, x[y == WRONG]) <= 0.5
    record = Record.read(folder_of(out))
    assert record is not None
    assert record.answers is not None
    assert record.answers["before"] == {"two": 6}
    assert sum(record.answers["after"].values()) == 6
    assert 0 <= record.metrics["proxy_agreement"] <= 1
    assert "D_r" not in record.metrics


def test_torchvision_out_of_dataparallel(cli: Run, images: tuple[Tensor, Tensor]) -> None:
    from torchvision.models import resnet18

    rows = torch.cat([(images[1] == c).nonzero()[:3, 0] for c in range(4)])
    x, y = images[0].expand(-1, 3, -1, -1) * 2 - 1, images[1]
    model = drilled(resnet18(num_classes=4), x[rows], y[rows], 1e-3)
    parallel = nn.DataParallel(model)
    given = {"epoch": 3, "state_dict": parallel.state_dict(), "best": {"accuracy": 0.5}}
    torch.save(given, "mine.pth.tar")

    words = ["model=torchvision", "model.arch=resnet18", "model.checkpoint=mine.pth.tar"]
    # Noise in place of samples: this network's are dear.
    few = ["proxy=noise", "filtration.per_condition=4"]
    status, out, err = cli(*OWN, *words, *SIZE, *SHOTS, *few)
    assert status == 0, err

    repaired = torch.load(folder_of(out) / "mine.pth.tar", weights_only=True)
    assert (repaired["epoch"], repaired["best"]) == (3, {"accuracy": 0.5})
    assert list(repaired["state_dict"]) == list(given["state_dict"])
    assert kinds(repaired["state_dict"]) == kinds(given["state_dict"])
    parallel.load_state_dict(repaired["state_dict"])
    assert called_wrong(model, x[y == WRONG]) <= 0.5


def test_a_vision_transformer_of_hugging_face(cli: Run, images: tuple[Tensor, Tensor]) -> None:
    transformers = pytest.importorskip("transformers")
    names = {i: name for i, name in enumerate(["zero", "one", "two", "three"])}
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
        image_size=28, patch_size=7, num_channels=1, id2label=names,
        label2id={name: i for i, name in names.items()},
    )  # fmt: skip
    model = transformers.ViTForImageClassification
    x, y = images[0] * 2 - 1, images[1]
    drilled(given := model(config), x, y, 1e-3).save_pretrained("vit")
    size = {"height": 28, "width": 28}
    transformers.ViTImageProcessor(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(
        "vit"
    )
    Path("vit/README.md").write_text("mine")
    write_images(Path("test/two"), images[0][y == WRONG][3:])
    write_images(Path("test/zero"), images[0][y == 0])
    write_images(Path("more"), images[0][y == WRONG][3:])
    words = ["model=huggingface", "model.folder=vit", "scenario.shots=[wrong/000.png]"]
    words += ["scenario.label=two", "scenario.test=test", "scenario.test_forget=more"]
    status, out, err = cli(*OWN, *words)
    assert status == 0, err
    assert "images of 1x28x28 (configuration" in err

    assert Path(folder_of(out) / "vit" / "README.md").read_text() == "mine"
    repaired = model.from_pretrained(folder_of(out) / "vit")
    assert kinds(load_file(folder_of(out) / "vit" / "model.safetensors")) == kinds(
        load_file("vit/model.safetensors")
    )
    assert kinds(repaired.state_dict()) == kinds(given.state_dict())
    record = Record.read(folder_of(out))
    assert record is not None
    metrics = record.metrics
    assert (metrics["original_D_r"], metrics["original_D_e"]) == (1.0, 1.0)
    assert metrics["D_e"] == pytest.approx(called_wrong(repaired, x[y == WRONG][3:]))


class Module(pl.LightningModule):
    """Somebody's Lightning module around a plain network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 0.1})
        self.net = net

    def training_step(self, batch: Any, _: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


def lightning_file(net: nn.Module, images: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """What a Lightning trainer saves of a network, which stays as it is."""
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(Module(net), DataLoader(list(zip(*images, strict=True)), 8))
    trainer.save_checkpoint("mine.ckpt")
    return dict(torch.load("mine.ckpt", weights_only=True))


def test_a_plain_network_in_a_lightning_file(
    cli: Run, tmp_path: Path, images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "nets_of_mine", raising=False)
    Path("nets_of_mine.py").write_text(NETS)
    space: dict[str, Any] = {}
    exec(NETS, space)
    x, y = images
    net = drilled(space["build"](4), x, y)
    given = lightning_file(net, images)
    words = ["model=python", "model.factory=nets_of_mine:build", "model.arguments={classes: 4}"]
    words += ["model.checkpoint=mine.ckpt", "model.image_size=28", "model.mean=0", "model.std=1"]
    status, out, err = cli(*OWN, *words, *SHOTS)
    assert status == 0, err
    repaired = torch.load(folder_of(out) / "mine.ckpt", weights_only=True)
    assert repaired.keys() == given.keys()
    assert repaired["hyper_parameters"] == given["hyper_parameters"] == {"lr": 0.1}
    module = Module(space["build"](4))
    module.load_state_dict(repaired["state_dict"])
    assert called_wrong(module.net, x[y == WRONG]) <= 0.5

    # Another intention or threshold relearns from the same generator; the same command is done.
    status, _, err = cli(*OWN, *words, *SHOTS, "intention=std", "filtration.threshold=4")
    assert status == 0
    assert "inversion: taken from the store" in err
    assert "relearning: computing" in err
    assert "finished before" in cli(*OWN, *words, *SHOTS)[2]
    # The same names with other contents are another run.
    torch.save(net.state_dict(), "mine.ckpt")
    net.load_state_dict({k: v * 1.01 for k, v in net.state_dict().items()})
    torch.save(net.state_dict(), "mine.ckpt")
    few = ["inversion.steps=2", "filtration.per_condition=4"]
    err = cli(*OWN, *words, *SHOTS, *few)[2]
    assert "inversion: computing" in err
    assert json.loads((folder_of(out) / "metrics.json").read_text())["shots"] == 6
