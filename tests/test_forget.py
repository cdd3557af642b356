"""The library call: any classifier, left untouched; no way to training data."""

from __future__ import annotations

import ast
import copy
import inspect
import os
import subprocess
import sys
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import unlearn
from tests.helpers import OTHER_PROCESSES, doubles, shots_of, small_net, taught, tiny
from unlearn import TrainingDiverged, UserError, forget, settings
from unlearn.engine.augment import Augment
from unlearn.forget import few_shot_unlearn
from unlearn.problem import Problem

PACKAGE = Path(unlearn.__file__).parent


def snapshot(model: nn.Module) -> dict[str, object]:
    return {
        "state": copy.deepcopy(model.state_dict()),
        "modes": [m.training for m in model.modules()],
        "grads": [p.requires_grad for p in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
    }


CASES = {
    "gray": (lambda: small_net(), (1, 28, 28)),
    "colour": (lambda: small_net(3), (3, 32, 32)),
    "no BatchNorm": (lambda: small_net(norm=False), (1, 28, 28)),
    "torchvision ResNet": (lambda: resnet18(num_classes=5), (3, 32, 32)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("intention", ["std", "unt", "neg", "cor"])
def test_forget_takes_any_classifier_and_leaves_it_untouched(case: str, intention: str) -> None:
    make, shape = CASES[case]
    if case == "torchvision ResNet" and intention in ("std", "unt"):
        pytest.skip("two intentions are enough for the slow network")
    model = taught(make(), *shape)
    model[0].register_forward_hook(lambda *_: None) if isinstance(model, nn.Sequential) else None
    next(model.parameters()).requires_grad_(False)
    model.train()
    next(model.children()).eval()
    shots, labels = shots_of(*shape)
    before, state = snapshot(model), torch.get_rng_state()
    correct = (labels + 1) % 4 if intention == "cor" else None
    result = forget(model, shots, labels, intention, correct, settings=tiny())
    after = snapshot(model)
    torch.testing.assert_close(after.pop("state"), before.pop("state"), rtol=0, atol=0)
    assert after == before
    assert torch.equal(torch.get_rng_state(), state)
    assert type(result.model) is type(model)
    assert result.model is not model
    changed = [
        not torch.equal(a, b)
        for a, b in zip(result.model.parameters(), model.parameters(), strict=True)
    ]
    assert any(changed)
    assert result.model(shots).shape == model(shots).shape
    assert result.proxy.images.shape[1:] == shape
    assert result.proxy.target_like.any()
    assert not any(m._forward_pre_hooks for m in result.model.modules())
    assert set(result.history) == {"inversion", "relearning"}


def test_same_seed_same_numbers() -> None:
    model = taught(small_net(), 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)
    one, two, other = (
        forget(model, shots, labels, "neg", settings=tiny(), seed=s) for s in (0, 0, 1)
    )
    torch.testing.assert_close(one.model.state_dict(), two.model.state_dict(), rtol=0, atol=0)
    assert one.history == two.history
    assert one.history != other.history


def test_a_model_that_wants_normalised_images() -> None:
    inner = taught(small_net(), 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)

    class Unscaled(nn.Module):
        """The same network on images scaled by (x - 0.2) / 0.5."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x * 0.5 + 0.2)

    with doubles():  # rounding that does not grow into other samples over a training
        one, two = Unscaled().double(), copy.deepcopy(inner).double()
        result = forget(one, shots, labels, settings=tiny(), normalize=([0.2], [0.5]))
        plain = forget(two, shots, labels, settings=tiny())
    assert isinstance(result.model, Unscaled)
    torch.testing.assert_close(
        result.model.inner.state_dict(), plain.model.state_dict(), rtol=1e-2, atol=1e-3
    )


def test_a_named_penultimate_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 14), nn.Flatten(), nn.BatchNorm1d(4)
    )
    net = taught(net, 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)
    with pytest.raises(UserError, match="penultimate"):
        forget(net, shots, labels, settings=tiny())
    result = forget(net, shots, labels, settings=tiny(), penultimate="1")
    assert result.proxy.target_like.any()


def test_the_store_resumes_and_gives_the_same(tmp_path: Path) -> None:
    model = taught(small_net(), 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)
    runs = [forget(model, shots, labels, settings=tiny(), store=tmp_path) for _ in range(2)]
    plain = forget(model, shots, labels, settings=tiny())
    for other in (runs[1], plain):
        torch.testing.assert_close(
            runs[0].model.state_dict(), other.model.state_dict(), rtol=0, atol=0
        )
        assert runs[0].history == other.history
    assert runs[0].seconds == runs[1].seconds
    assert len(list(tmp_path.glob("*/*/tensors.safetensors"))) == 3
    forget(model, shots, labels, "std", settings=tiny(), store=tmp_path)
    assert len(list(tmp_path.glob("inversion/*/tensors.safetensors"))) == 1
    assert len(list(tmp_path.glob("relearning/*/tensors.safetensors"))) == 2


def test_wrong_arguments() -> None:
    model = small_net()
    x, y = torch.rand(3, 1, 28, 28), torch.tensor([1, 1, 1])
    for arguments, key in (
        ((x[0], y), "shots"),
        ((x[:0], y[:0]), "shots"),
        ((x * 2, y), "shots"),
        ((x.to(torch.uint8), y), "shots"),
        ((x, y[:2]), "labels"),
        ((x, torch.tensor([1, 9, 1])), "labels"),
        ((x, y + 9), "labels"),
        ((x, y, "neg", y + 9), "correct_labels"),
        ((x, y, "cor"), "correct_labels"),
        ((x, y, "cor", y), "correct_labels"),
        ((x, y, "forgive"), "intention"),
    ):
        with pytest.raises(UserError, match=rf"^{key}: "):
            forget(model, *arguments, settings=tiny())
    with pytest.raises(UserError, match=r"^model: "):
        forget(nn.Sequential(nn.Flatten(), nn.Linear(784, 1)), x, y, settings=tiny())
    with pytest.raises(UserError, match=r"^inversion\.lr: "):
        settings("demo", "inversion.lr=-1")


def test_a_batch_must_hold_every_condition() -> None:
    model = taught(small_net(), 1, 28, 28)
    with pytest.raises(UserError, match=r"^inversion\.batch_size: 4 .* 5 conditions"):
        forget(model, *shots_of(1, 28, 28), settings=tiny(batch_size=4))


def test_nan_is_said_with_stage_and_step() -> None:
    model = taught(small_net(), 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)
    with pytest.raises(TrainingDiverged, match=r"^inversion: .* step \d+;") as caught:
        forget(model, shots, labels, settings=tiny(lr=1e38))
    assert caught.value.stage == "inversion"


def test_losses_are_switched_off_by_weight() -> None:
    model = taught(small_net(), 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)
    chosen = tiny()
    for name in ("aug", "tar", "bn", "div", "tv"):
        weights = replace(chosen.inversion.weights, **{name: 0.0})
        cfg = replace(chosen, inversion=replace(chosen.inversion, weights=weights))
        row = forget(model, shots, labels, settings=cfg).history["inversion"][-1]
        assert name not in row
        assert {"ent", "aug", "tar", "bn", "div", "tv"} - {name} <= set(row)


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return found


def ours(path: Path) -> set[str]:
    return {m for m in imports(path) if m.startswith("unlearn.")}


def file_of(module: str) -> Path | None:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def reachable(module: str) -> set[str]:
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        path = file_of(name)
        if name not in seen and path is not None:
            seen.add(name)
            todo += ours(path)
            if path.name == "__init__.py":  # its modules are imported by name at run time
                todo += [f"{name}.{p.stem}" for p in path.parent.glob("*.py")]
    return seen


def test_the_unlearner_cannot_reach_training_data() -> None:
    reached = reachable("unlearn.forget")
    assert {"unlearn.inversion.invert", "unlearn.filtration.filtrate"} <= reached
    assert {"unlearn.relearning.relearn", "unlearn.relearning.intentions.std"} <= reached
    assert {"unlearn.methods.delete", "unlearn.methods.pour"} <= reached
    barred = ("data", "scenarios", "training", "baselines", "pipeline", "config")
    assert not [m for m in reached if m.startswith(tuple(f"unlearn.{b}" for b in barred))]
    outside = {i.split(".")[0] for m in reached if (path := file_of(m)) for i in imports(path)}
    assert "torch" in outside
    assert not outside & {"torchvision", "mlxtend", "PIL", "hydra", "omegaconf"}
    parameters = {
        *inspect.signature(few_shot_unlearn).parameters,
        *inspect.signature(forget).parameters,
    }
    assert not parameters & {"data", "dataset", "train", "loader", "task", "scenario"}


def test_a_fresh_process_that_imports_the_library_call_loads_neither_hydra_nor_data() -> None:
    """Nor does it heed what is said of other processes of a job."""
    code = """
import sys
import torch, unlearn.forget
barred = ("hydra", "omegaconf", "mlxtend", "unlearn.data", "unlearn.scenarios", "unlearn.config",
          "unlearn.baselines", "unlearn.training")
assert "unlearn.methods.delete" in sys.modules
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
model[1].bias.data[0] = 3.0
result = unlearn.forget(model, torch.rand(4, 1, 8, 8), [0] * 4, method="delete")
assert list(result.stages) == ["delete"] and result.proxy is None
print([m for m in sys.modules if any(m == b or m.startswith(b + ".") for b in barred)])
from pytorch_lightning.utilities import rank_zero_only
print(rank_zero_only.rank)
"""
    here = {**os.environ, **OTHER_PROCESSES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=here)
    assert done.stdout.split("\n") == ["[]", "0", ""], done.stderr
    assert len(inspect.signature(Problem.of).parameters) <= 8


def test_no_circular_imports() -> None:
    graph = {
        ".".join(["unlearn", *p.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): ours(p)
        for p in PACKAGE.rglob("*.py")
    }
    graph = {m: {i for i in found if i in graph and i != m} for m, found in graph.items()}
    assert len(graph) > 100
    TopologicalSorter(graph).prepare()  # names a circle, if there is one


def test_augmentation_can_be_named() -> None:
    model = taught(small_net(), 1, 28, 28)
    shots, labels = shots_of(1, 28, 28)
    plain, other = (
        forget(model, shots, labels, settings=tiny(), augment=a) for a in (None, Augment(0, 0))
    )
    assert plain.history != other.history


def test_settings_of_another_intention_are_refused_where_they_differ() -> None:
    model, shots = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.rand(5, 1, 8, 8)
    best = unlearn.settings("small", "recipe=best")
    assert best.not_for == {"std", "unt", "cor"}
    with pytest.raises(UserError, match=r"^settings: .*'intention=cor'"):
        forget(model, shots, torch.full((5,), 1), "cor", torch.full((5,), 2), settings=best)
    correcting = unlearn.settings("small", "recipe=best", "intention=cor")
    assert correcting.not_for == {"std", "unt", "neg"}
    assert correcting.inversion.generators == 3
    assert not unlearn.settings("demo").not_for
    assert not unlearn.settings().not_for
