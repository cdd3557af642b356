"""One's own model from the shell: of any origin, its weights written back as they came.

The models are trained and loaded by plain code that uses nothing of this program.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.helpers import OWN, digits, drilled, errors, small_net, small_task, write_images
from unlearn import UserError
from unlearn.config import check, resolve
from unlearn.config.identity import known_by
from unlearn.engine.augment import Augment
from unlearn.filtration import FiltrationConfig, split
from unlearn.filtration.filtrate import Measured, relative
from unlearn.inversion import Generator, InversionConfig, Inverter, build_generator
from unlearn.models import load_model
from unlearn.models.checkpoint import load_checkpoint
from unlearn.models.from_huggingface import HuggingFace
from unlearn.models.from_python import FromPython
from unlearn.models.from_timm import Timm
from unlearn.models.saving import FileWeights
from unlearn.problem import Interface, Problem
from unlearn.relearning import Given
from unlearn.relearning.intentions.cor import Cor
from unlearn.relearning.lesson import relabelled, without
from unlearn.relearning.restraint import Held
from unlearn.runs.record import Record
from unlearn.runs.run import check_network, network_for
from unlearn.scenarios.own import Own, index_of

Run = Callable[..., tuple[int, str, str]]
WRONG, RIGHT = 2, 3  # what the models call the shots, and what they shall call them
SIZE = ["model.image_size=28", "model.mean=0.5", "model.std=[0.5]"]
SHOTS = ["scenario.shots=wrong", f"scenario.label={WRONG}"]
NETS = """
from torch import nn

WIDTH = 12

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

def nothing(classes):
    return {}
"""


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    return digits(6)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the shots, in which the command line runs; networks are drawn from a seed."""
    torch.manual_seed(0)
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

    status, _, err = cli(*OWN, *words, "intention=neg", "relearning.lr=1e-9")
    assert status == 0, err
    assert "the shots were answered two x6; now two x6" in err
    assert "most shots still get their label" in err


def test_torchvision_out_of_dataparallel(cli: Run, images: tuple[Tensor, Tensor]) -> None:
    from torchvision.models import resnet18

    rows = torch.cat([(images[1] == c).nonzero()[:3, 0] for c in range(4)])
    small, y = images[0][rows, :, ::2, ::2], images[1][rows]
    x = small.expand(-1, 3, -1, -1) * 2 - 1
    model = drilled(resnet18(num_classes=4), x, y, 1e-3)
    write_images(Path("small"), small[y == WRONG])
    parallel = nn.DataParallel(model)
    given = {"epoch": 3, "state_dict": parallel.state_dict(), "best": {"accuracy": 0.5}}
    torch.save(given, "mine.pth.tar")

    words = ["model=torchvision", "model.arch=resnet18", "model.checkpoint=mine.pth.tar"]
    # Noise in place of samples: this network's are dear.
    words += ["proxy=noise", "filtration.per_condition=4", "relearning.batch_size=16"]
    words += ["model.image_size=14", "model.mean=0.5", "model.std=0.5"]
    status, out, err = cli(*OWN, *words, "scenario.shots=small", f"scenario.label={WRONG}")
    assert status == 0, err

    repaired = torch.load(folder_of(out) / "mine.pth.tar", weights_only=True)
    assert (repaired["epoch"], repaired["best"]) == (3, {"accuracy": 0.5})
    assert list(repaired["state_dict"]) == list(given["state_dict"])
    assert kinds(repaired["state_dict"]) == kinds(given["state_dict"])
    parallel.load_state_dict(repaired["state_dict"])
    assert called_wrong(model, x[y == WRONG]) <= 0.5


def test_a_vision_transformer_of_hugging_face(cli: Run, images: tuple[Tensor, Tensor]) -> None:
    transformers = pytest.importorskip("transformers")
    names = dict(enumerate(["zero", "one", "two", "three"]))
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


BAD_MODELS: list[tuple[dict[str, Any], list[str]]] = [
    ({"checkpoint": "none.pt"}, ["model.checkpoint", "none.pt"]),
    ({"checkpoint": "pickled.pt"}, ["model.checkpoint", "Python's code", "weights alone"]),
    ({"checkpoint": None}, ["model.checkpoint", "model.checkpoint=FILE"]),
    ({"factory": None}, ["model.factory", "module:callable"]),
    ({"factory": "nets_of_mine"}, ["model.factory", "module:callable"]),
    ({"factory": "nowhere:build"}, ["model.factory", "'nowhere' cannot be imported"]),
    ({"factory": "nets_of_mine:made"}, ["model.factory", "no 'made' in 'nets_of_mine'"]),
    ({"factory": "nets_of_mine:WIDTH"}, ["model.factory", "int", "cannot be called"]),
    ({"factory": "nets_of_mine:nothing"}, ["model.factory", "dict", "no torch.nn.Module"]),
    ({"arguments": None}, ["model.factory", "failed", "classes"]),
    ({"arguments": {"classes": 5}}, ["model.checkpoint", "head.weight (4, 384) for (5, 384)"]),
    ({"arguments": 5}, ["model.arguments", "no mapping"]),
    ({"image_size": None}, ["model.image_size", "model.image_size=PIXELS"]),
    ({"image_size": [3, 3]}, ["model.image_size", "from 8"]),
    ({"mean": None}, ["model.mean", "model.mean=0 model.std=1"]),
    ({"mean": [0, 0]}, ["model.mean", "one number for each of 1 channels"]),
    ({"std": 0}, ["model.std", "above 0"]),
]
BAD_IMAGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"shots": None}, ["scenario.shots", "needs a value"]),
    ({"shots": "nothing"}, ["scenario.shots", "no file or folder 'nothing'"]),
    ({"shots": "empty"}, ["scenario.shots", "'empty' holds no images"]),
    ({"shots": ["wrong/000.png", "no.png"]}, ["scenario.shots", "no.png", "cannot be read"]),
    ({"label": None}, ["scenario.label", "needs a value"]),
    ({"label": "tow"}, ["scenario.label", "'tow'", "did you mean 'two'?"]),
    ({"label": 4}, ["scenario.label", "4 classes"]),
    ({"correct": "thre"}, ["scenario.correct", "did you mean 'three'?"]),
    ({"label": ["two", "one"]}, ["scenario.shots", "holds no folders"]),
    ({"classes": "none.txt"}, ["scenario.classes", "none.txt"]),
    ({"classes": "three.txt"}, ["scenario.classes", "3 names", "4 classes"]),
    ({"test": "wrong"}, ["scenario.test", "holds no folders"]),
    ({"test": "strange"}, ["scenario.test", "'five' is none"]),
    ({"test_forget": "nothing"}, ["scenario.test_forget", "nothing"]),
]
BAD_WORDS = {
    "intention=cor": ["scenario.correct", "needs the right class"],
    "intention=cor scenario.correct=2": ["scenario.correct", "other than the wrong one"],
    "baseline=oracle": ["baseline", "oracle needs the training data"],
    "data=mnist5k": ["data", "no training data"],
    "shot=0.5": ["shot", "all images of scenario.shots"],
    "shot=900img": ["shot", "all images of scenario.shots, "],
    "image_size=32": ["image_size", "model.image_size"],
    "track_predictions=true": ["track_predictions"],
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> FromPython:
    """An untrained network of one's own, and images."""
    monkeypatch.delitem(sys.modules, "nets_of_mine", raising=False)
    Path("nets_of_mine.py").write_text(NETS)
    space: dict[str, Any] = {}
    exec(NETS, space)
    torch.manual_seed(0)
    torch.save(space["build"](4).state_dict(), "mine.pt")
    for name, words in (("four", "zero one two three"), ("three", "zero one two")):
        Path(f"{name}.txt").write_text("\n".join(words.split()) + "\n")
    torch.save(nn.Linear(2, 2), "pickled.pt")
    Path("no.png").write_text("no image")
    Path("empty").mkdir()
    write_images(Path("strange/five"), torch.rand(1, 1, 28, 28))
    return FromPython(
        "python", "nets_of_mine:build", {"classes": 4},
        checkpoint="mine.pt", image_size=28, mean=0.5, std=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(("changed", "parts"), BAD_MODELS)
def test_bad_models(plain: FromPython, changed: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        load_model(replace(plain, **changed))
    assert raised.value.key == parts[0]
    assert [part for part in parts if part not in str(raised.value)] == []


@pytest.mark.parametrize(("changed", "parts"), BAD_IMAGES)
def test_bad_images(plain: FromPython, changed: dict[str, Any], parts: list[str]) -> None:
    scenario = Own("own", shots="wrong", label="two", classes="four.txt")
    scenario = replace(scenario, **changed)

    def read() -> None:
        scenario.check()
        scenario.read(load_model(plain), False)

    with pytest.raises(UserError) as raised:
        read()
    assert raised.value.key == parts[0]
    assert [part for part in parts if part not in str(raised.value)] == []


def test_bad_combinations_are_refused_and_nothing_is_written(cli: Run, plain: FromPython) -> None:
    words = ["model=python", f"model.factory={plain.factory}", "model.arguments={classes: 4}"]
    words += ["model.checkpoint=mine.pt", *SIZE, *SHOTS]
    for bad, parts in BAD_WORDS.items():
        status, _, err = cli(*OWN, *words, *bad.split())
        (line,) = errors(err)
        assert status == 2
        assert line.startswith(f"error: {parts[0]}: ")
        assert [part for part in parts if part not in line] == []
    status, _, err = cli("scale=demo", "scenario=class_mnist", "model.mean=0.5")
    assert (status, len(errors(err))) == (2, 1)
    assert "model.mean: is for scenario=own" in err
    assert not Path("out").exists()


def test_the_best_recipe_for_one_image_of_ones_own(plain: FromPython) -> None:
    """``shot`` may say how many images there are: for one, the recipe takes other settings."""
    write_images(Path("single"), torch.rand(1, 1, 28, 28))
    words = ["scale=demo", "scenario=own", "scenario.label=two", "recipe=best", "model=python"]
    words += [f"model.factory={plain.factory}", "model.checkpoint=mine.pt", *SIZE]
    one, several = ([*words, f"scenario.shots={f}"] for f in ("single", "wrong"))
    check(cfg := resolve([*one, "shot=1img"]))
    assert (cfg.relearning.forget, cfg.filtration.knee) == ("samples", False)
    check(cfg := resolve(several))
    assert (cfg.relearning.forget, cfg.filtration.knee) == ("shots", True)
    assert "shot" not in known_by(cfg)
    with pytest.raises(UserError, match=r"shot: '9img': own takes all .*, 1img"):
        check(resolve([*one, "shot=9img"]))


def test_a_folder_without_weights_is_refused(plain: FromPython) -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"^model\.folder: .*config\.json"):
        load_model(HuggingFace("huggingface", "empty"))
    transformers.ViTConfig(hidden_size=12, num_hidden_layers=1).save_pretrained("empty")
    with pytest.raises(UserError, match=r"^model\.folder: 'empty' cannot be loaded"):
        load_model(HuggingFace("huggingface", "empty", mean=0, std=1))


def test_what_is_missing_is_said(plain: FromPython, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, model in (("timm", Timm), ("transformers", HuggingFace)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=r"^model: .*pip install 'few-shot-unlearning"):
            load_model(model(model.__name__.lower()))


def test_two_labels_at_once(cli: Run, images: tuple[Tensor, Tensor]) -> None:
    Path("nets_of_two.py").write_text(NETS)
    space: dict[str, Any] = {}
    exec(NETS, space)
    x, y = images
    net = drilled(space["build"](4), x, y)
    torch.save(net.state_dict(), "mine.pt")
    for name in ("two", "one"):
        write_images(Path("shots") / name, x[y == int(name == "one") + 2 * int(name == "two")])
    Path("four.txt").write_text("zero\none\ntwo\nthree\n")
    words = ["model=python", "model.factory=nets_of_two:build", "model.arguments={classes: 4}"]
    words += ["model.checkpoint=mine.pt", "model.image_size=28", "model.mean=0", "model.std=1"]
    words += ["scenario.classes=four.txt", "scenario.shots=shots", "scenario.label=[two,one]"]
    status, out, err = cli(
        *OWN, *words, "intention=cor", "scenario.correct=[three,zero]", "relearning.lr=0.01"
    )
    assert status == 0, err
    assert "two: 6 of class 2 (two), rightly three; one: 6 of class 1 (one), rightly zero" in err
    net.load_state_dict(torch.load(folder_of(out) / "mine.pt", weights_only=True))
    with torch.no_grad():
        answers = net(x).argmax(-1)
    for wrong, right in ((2, 3), (1, 0)):
        assert float((answers[y == wrong] == wrong).float().mean()) <= 0.5, right


def test_each_label_is_relabelled_by_its_own_right_one() -> None:
    images = torch.rand(4, 1, 28, 28)
    model = small_net()
    givens = [Given(model, 0, 1, 0), Given(model, 2, 3, 0)]
    labels = relabelled(Cor(), images, givens, torch.tensor([2, 0, 0, 2]))
    assert labels is not None
    assert labels.argmax(-1).tolist() == [3, 1, 1, 3]
    held = Held(Cor(), givens, images, torch.tensor([0, 0, 2, 2]))
    with torch.no_grad():
        said = model(images).argmax(-1)
    right = (said == torch.tensor([1, 1, 3, 3])).float().mean()
    assert held.share(model) == pytest.approx(float(right))
    p = without(torch.full((1, 4), 0.25), [0, 2])
    torch.testing.assert_close(p, torch.tensor([[0.0, 0.5, 0.0, 0.5]]))


def test_each_label_has_its_own_condition_and_statistics() -> None:
    shots = torch.cat([torch.full((2, 1, 28, 28), v) for v in (0.2, 0.8)])
    interface = Interface()
    problem = Problem.of(
        small_net(), shots, [2, 2, 0, 0], [3, 3, 1, 1], Augment(0, 0), 0, interface
    )
    assert (problem.targets, problem.corrects) == ((0, 2), (1, 3))
    cfg = InversionConfig(batch_size=12, width=4)
    module = Inverter(cfg, build_generator(cfg, 4, problem.shape, 0, 2), problem)
    assert module.labels.tolist() == [0, 1, 2, 3, 0, 2]
    assert module.draw(12)[1].bincount().tolist() == [2] * 6
    for target, statistics in zip((0, 2), module.targets, strict=True):
        alone = replace(problem, targets=(target,))
        only = Inverter(cfg, build_generator(cfg, 4, problem.shape, 0), alone)
        for a, b in zip(statistics, only.targets[0], strict=True):
            torch.testing.assert_close(a, b)
    with pytest.raises(UserError, match=r"^correct_labels: the shots of label 2 have several"):
        Problem.of(small_net(), shots, [2, 2, 0, 0], [3, 1, 1, 1], Augment(0, 0), 0, interface)


def test_distances_of_several_labels_are_in_units_of_their_thresholds() -> None:
    each = [
        Measured(torch.tensor([0.1, 0.4, 0.3]), torch.tensor([0.2]), torch.ones(1), 0.2),
        Measured(torch.tensor([0.9, 0.1, 0.4]), torch.tensor([0.5]), torch.ones(1), 1.0),
    ]
    seen = relative(each, (1, 3), torch.tensor([1, 1, 0]))
    torch.testing.assert_close(seen.distances, torch.tensor([0.5, 2.0, 0.4]))
    torch.testing.assert_close(seen.within, torch.tensor([1.0, 0.5]))
    p = torch.eye(4)[[1, 1, 0]]
    like, _ = split(
        FiltrationConfig(), seen.distances, p, torch.zeros(3, dtype=torch.bool), seen.t_f, (1, 3)
    )
    assert like.tolist() == [True, False, False]


def test_names_numbers_and_sizes(plain: FromPython) -> None:
    assert index_of("two", ["one", "two"], "x") == 1
    assert index_of(1, ["7", "1"], "x") == 1  # a name comes before a number
    assert index_of(1, ["7", "8"], "x") == 1
    write_images(Path("wide"), torch.rand(2, 3, 40, 60))
    task = Own("own", shots=["wide", "wrong/000.png"], label=2).read(load_model(plain), False)
    assert task.shots.shape == (3, 1, 28, 28)
    assert task.classes == ["0", "1", "2", "3"]


def test_the_commands_of_the_page_compose() -> None:
    root = Path(__file__).parents[1]
    text = (root / "docs" / "your-model.md").read_text() + (root / "README.md").read_text()
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    commands = [shlex.split(c, comments=True) for c in blocks.replace("\\\n", "").splitlines() if c]
    assert len(commands) >= 6
    for name, *words in commands:
        assert name == "unlearn"
        if words[0] == "page":  # which is of one's own model, or of the demo's
            continue
        cfg = resolve(words)
        assert cfg.scenario.name == ("own" if "scenario=own" in words else "class_mnist")


def test_other_scenarios_take_networks_of_torchvision_if_these_can() -> None:
    task = small_task(8)
    words = ["scale=demo", "scenario=class_mnist", "model=torchvision"]
    with pytest.raises(UserError, match=r"^model: .*cannot take images \(2, 1, 8, 8\)"):
        check_network(resolve([*words, "model.arch=alexnet"]), task)
    cfg = resolve([*words, "model.arch=mobilenet_v3_small"])
    check_network(cfg, task)
    state = network_for(cfg, task).state_dict()
    assert state["network.features.0.0.weight"].shape[1] == 1
    assert state["network.classifier.3.weight"].shape[0] == 4


@pytest.mark.parametrize(
    ("side", "rows"), [(28, 7), (32, 8), (30, 8), (64, 16), (65, 9), (224, 14)]
)
def test_images_of_any_size_are_generated(side: int, rows: int) -> None:
    """The base is at most 16x16; 28 and 32 are doubled twice."""
    generator = Generator(3, (1, side, side - 3), 1, 4)
    images = generator(torch.randn(3, 4), torch.arange(3))
    assert images.shape == (3, 1, side, side - 3)
    assert generator.rows == rows
    widths = [m.out_channels for m in generator.body if isinstance(m, nn.Conv2d)]
    assert widths[-3:] == [4, 2, 1]


def test_every_copy_of_the_weights_in_a_file_is_repaired() -> None:
    model, other = small_net(), small_net(seed=1)
    held = {f"module.{k}": v for k, v in other.state_dict().items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "lr": 0.1}
    file = {"model": held, "ema": dict(other.state_dict()), "optimizer": optimizer, "epoch": 3}
    torch.save(file, "mine.pt")
    found = load_checkpoint(copy.deepcopy(other), "mine.pt")
    assert (found.path, found.prefix) == (("model",), "module.")
    (said,) = FileWeights("mine.pt", found).write(model, Path("repaired.pt"))
    assert "ema" in said
    repaired = torch.load("repaired.pt", weights_only=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(repaired["model"][f"module.{name}"], tensor)
        assert torch.equal(repaired["ema"][name], tensor)
    assert repaired["epoch"] == 3
    assert repaired["optimizer"]["lr"] == 0.1
    assert torch.equal(repaired["optimizer"]["state"][0]["momentum_buffer"], torch.ones(2))
