"""Fisher: the diagonal against the loop over images and classes, the noise against its rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import small_net
from unlearn import UserError
from unlearn.baselines import BASELINES, FullAccess
from unlearn.baselines.diagonal import fisher_diagonal, output_root, some
from unlearn.baselines.fisher import Fisher
from unlearn.baselines.ssd import SSD
from unlearn.config.checks import check
from unlearn.config.compose import resolve
from unlearn.data import Images
from unlearn.data.mnist5k import MNIST5k
from unlearn.engine.augment import Augment
from unlearn.models import ModelConfig, build
from unlearn.relearning.intentions.neg import Neg
from unlearn.scenarios import Task
from unlearn.training import TrainingConfig

FISHER = Fisher("fisher", 0.01, 1e3, 1e2, 10.0, 4)


def random_images(number: int, channels: int = 1, size: int = 16) -> Tensor:
    rng = torch.Generator().manual_seed(5)
    shape = (number, channels, size, size)
    return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)


def network(name: str, norm: str, channels: int = 1) -> nn.Module:
    """Weights and running statistics that are not the initial ones."""
    torch.manual_seed(3)
    model = build(ModelConfig(name, norm, 4), channels, 4, [0.4] * channels, [0.3] * channels)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, channels, 16, 16))
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def one_by_one(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The diagonal by its definition: one image, one class at a time."""
    sums = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for image in images.split(1):
        logits = model(image.to(torch.get_default_dtype()) / 255)
        for y, p in enumerate(logits.detach().softmax(-1)[0]):
            model.zero_grad()
            F.cross_entropy(logits, torch.tensor([y])).backward(retain_graph=True)
            for name, parameter in model.named_parameters():
                sums[name] += p * parameter.grad**2
    model.zero_grad()
    return {name: total / len(images) for name, total in sums.items()}


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18"])
@pytest.mark.parametrize("norm", ["batch", "layer", "instance"])
@pytest.mark.usefixtures("doubles")
def test_the_diagonal_is_the_loop(name: str, norm: str) -> None:
    model, images = network(name, norm, channels=2), random_images(3, channels=2)
    slow, fast = one_by_one(model, images), fisher_diagonal(model, images, 2)
    assert list(fast) == list(slow)
    for key, expected in slow.items():
        assert expected.abs().max() > 0
        torch.testing.assert_close(fast[key], expected, rtol=1e-9, atol=1e-20, msg=key)


def test_the_diagonal_in_single_precision() -> None:
    model, images = network("preact_resnet18", "batch"), random_images(3)
    slow, fast = one_by_one(model, images), fisher_diagonal(model, images, 3)
    for key, expected in slow.items():
        scale = float(expected.mean())
        torch.testing.assert_close(fast[key].float(), expected, rtol=1e-4, atol=1e-5 * scale)


def test_memory_is_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = small_net(), random_images(7, size=28)
    whole = fisher_diagonal(model, images, 7)
    monkeypatch.setattr("unlearn.baselines.diagonal.PIECE", {"cpu": 1})
    torch.testing.assert_close(fisher_diagonal(model, images, 2), whole, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
def test_the_outputs_root(scale: float) -> None:
    torch.manual_seed(0)
    logits = scale * torch.randn(50, 6).double()
    p, root = logits.softmax(-1), output_root(logits)
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    assert root.shape == (50, 6, 5)
    torch.testing.assert_close(root @ root.mT, expected, rtol=1e-9, atol=1e-15)


def test_a_sure_answer_still_counts() -> None:
    root = output_root(torch.tensor([[0.0, 30.0, -5.0]]))
    tail = torch.tensor([0.0, -30.0, -35.0]).double().exp()[1:].sum()
    assert float((root @ root.mT)[0, 1, 1]) == pytest.approx(float(tail), rel=1e-5)


def test_the_model_is_left_as_it_is() -> None:
    model = network("small_cnn", "batch").train()
    model.network[0].weight.requires_grad_(False)  # type: ignore[union-attr, operator, index]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    diagonal = fisher_diagonal(model, random_images(3), 2)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert all(m.training for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert float(diagonal["network.0.weight"].sum()) > 0


def test_layers_without_a_rule_are_refused() -> None:
    images = random_images(2)
    grouped = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(392, 3))
    with pytest.raises(UserError, match=r"model: .*'0' \(Conv2d\)"):
        fisher_diagonal(grouped, images, 2)
    shared = nn.Linear(256, 256)
    with pytest.raises(UserError, match="used twice"):
        fisher_diagonal(nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared), images, 2)


def access(model: nn.Module, seed: int = 0) -> FullAccess:
    train = Images(random_images(12), torch.arange(12) % 4)
    forget = torch.arange(12) % 3 == 1
    task = Task(train, forget, train, forget, 1, None, 1, list("abcd"), MNIST5k())
    return FullAccess(
        original=model,
        task=task,
        given=forget,
        intention=Neg("neg"),
        training=TrainingConfig(),
        augment=Augment(),
        fresh=lambda: model,
        seed=seed,
    )


def noise(model: nn.Module, unlearned: nn.Module) -> dict[str, Tensor]:
    pairs = zip(model.named_parameters(), unlearned.parameters(), strict=True)
    return {name: (after - before).detach() for (name, before), after in pairs}


def test_the_variance_is_the_literal_one() -> None:
    model = network("small_cnn", "batch")
    given = access(model)
    diagonal = fisher_diagonal(model, given.task.train.x[~given.task.forget], 9)
    seen = set()
    for name, f in diagonal.items():
        last = name.startswith("network.17.")
        seen.add((last, f.dim()))
        expected = torch.zeros_like(f)
        for row in range(f.shape[0]):
            inverses = [min(1 / (float(v) + 1e-8), 1e2 if last else 1e3) for v in f[row].flatten()]
            inverse = torch.tensor(inverses).double().view(f[row].shape)
            if f.dim() > 1:
                inverse = inverse.mean(0, keepdim=True).expand_as(inverse)
            expected[row] = 0.01 * inverse * (10 if last or f.dim() == 1 else 1)
        torch.testing.assert_close(FISHER.variance(f, last), expected)
    assert seen == {(False, 1), (False, 2), (False, 4), (True, 1), (True, 2)}


def test_the_diagonal_may_be_taken_on_some_images() -> None:
    """Drawn by the seed, of D_r alone; of all of them, it is as without."""
    given = access(model := network("small_cnn", "batch"))
    retained = given.task.train.x[~given.task.forget]
    few = some(retained, 3, seed=1)
    assert len(few) == 3
    assert all((retained == x).flatten(1).all(1).any() for x in few)
    assert torch.equal(few, some(retained, 3, seed=1))
    assert any(not torch.equal(few, some(retained, 3, seed=s)) for s in range(2, 6))
    assert some(retained, None, 1) is some(retained, len(retained), 1) is retained
    found = replace(FISHER, images=3).diagonal(model, given.task, 1)
    torch.testing.assert_close(found, fisher_diagonal(model, few, FISHER.batch_size))
    for kind, of in ((FISHER, len(retained)), (SSD("ssd", 10.0, 1.0, 4), len(given.task.train))):
        assert kind.passes(TrainingConfig(), given.task) == 4 * of
        assert replace(kind, images=3).passes(TrainingConfig(), given.task) == 4 * 3


def test_the_noise_has_that_variance_and_its_own_seed() -> None:
    model = network("small_cnn", "batch")
    state = {k: v.clone() for k, v in model.state_dict().items()}
    runs = [FISHER.unlearn(access(model, seed)).model for seed in (0, 0, 1)]
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    first, again, other = (noise(model, run) for run in runs)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    given = access(model)
    diagonal = FISHER.diagonal(model, given.task, 0)
    for name, drawn in first.items():
        z = drawn / FISHER.variance(diagonal[name], name.startswith("network.17.")).sqrt()
        if z.numel() > 1000:
            assert float(z.mean()) == pytest.approx(0, abs=0.1)
            assert float(z.std()) == pytest.approx(1, abs=0.05)
            assert not torch.equal(drawn, other[name])
    assert not runs[0].training
    for key, buffer in runs[0].named_buffers():
        assert torch.equal(buffer, state[key])


def test_images_to_forget_play_no_part() -> None:
    model = network("small_cnn", "layer")
    given, changed = access(model), access(model)
    changed.task = replace(
        changed.task, train=Images(given.task.train.x.clone(), given.task.train.y)
    )
    changed.task.train.x[changed.task.forget] = 255 - changed.task.train.x[changed.task.forget]
    results = [FISHER.unlearn(a).model.state_dict() for a in (given, changed)]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    changed.task.train.x[~changed.task.forget] = 0
    third = FISHER.unlearn(changed).model.state_dict()
    assert any(
        not torch.equal(a, b) for a, b in zip(third.values(), results[0].values(), strict=True)
    )


def test_its_configuration() -> None:
    cfg = resolve(["scale=demo", "scenario=7mnist", "baseline=fisher"])
    assert isinstance(cfg.baseline, BASELINES["fisher"])
    assert cfg.baseline.aim == "std"
    check(cfg)
    with pytest.raises(UserError, match=r"^baseline\.alpha"):
        check(resolve(["scale=demo", "scenario=7mnist", "baseline=fisher", "baseline.alpha=0"]))


def test_the_rule_for_alpha() -> None:
    from scripts.fisher_alpha import choose

    means = [0.99, 0.985, 0.98, 0.9, 0.985]  # luck beyond the fall does not count
    sweep = [
        {"alpha": 10.0**i, "train_D_r": {"mean": mean, "std": 0.0}} for i, mean in enumerate(means)
    ]
    assert choose(sweep, 0.97) == 100.0
    assert choose(sweep, 0.99) == 1.0
    assert choose(sweep, 0.995) is None
