"""MMD against the naive double sum; the knee and its guards on constructed curves."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

from tests.helpers import problem_of, small_net
from unlearn import NotSeparable
from unlearn.engine.augment import Augment
from unlearn.engine.seeding import seeded
from unlearn.engine.statistics import entropy
from unlearn.filtration import Filter, FiltrationConfig, Proxy, filtrate, warn_of_reach
from unlearn.filtration.filtrate import refined
from unlearn.filtration.knee import knee, threshold
from unlearn.filtration.mmd import leave_one_out, median_bandwidth, mmd_to
from unlearn.inversion import Generator
from unlearn.models.probe import Probe, head_of


def kernel(a: list[float], b: list[float], bandwidths: list[float]) -> float:
    d = math.dist(a, b) ** 2
    return sum(math.exp(-d / (2 * s * s)) for s in bandwidths) / len(bandwidths)


def naive_mmd(p: list[list[float]], q: list[list[float]], s: list[float]) -> float:
    """The biased squared MMD of two sets, every pair in turn."""

    def mean(a: list[list[float]], b: list[list[float]]) -> float:
        return sum(kernel(x, y, s) for x in a for y in b) / (len(a) * len(b))

    return mean(p, p) - 2 * mean(p, q) + mean(q, q)


@pytest.mark.parametrize("block", [4096, 0])
def test_mmd_is_the_naive_double_sum(block: int) -> None:
    torch.manual_seed(0)
    x, e = torch.randn(9, 5).double(), torch.randn(4, 5).double()
    s = torch.tensor([0.7, 2.0]).double()
    slow = [naive_mmd([row], e.tolist(), s.tolist()) for row in x.tolist()]
    assert mmd_to(x, e, s, block).tolist() == pytest.approx(slow, rel=1e-10)


def test_leave_one_out_is_the_naive_one() -> None:
    torch.manual_seed(1)
    e = torch.randn(5, 3).double()
    s = torch.tensor([1.0, 3.0]).double()
    rows = e.tolist()
    slow = [naive_mmd([rows[i]], rows[:i] + rows[i + 1 :], s.tolist()) for i in range(len(rows))]
    assert leave_one_out(e, s).tolist() == pytest.approx(slow, rel=1e-10)


def test_the_distance_does_not_depend_on_the_embedding_scale() -> None:
    torch.manual_seed(2)
    x, e = torch.randn(30, 6).double(), torch.randn(7, 6).double()
    results = []
    for scale in (1.0, 1000.0):
        s = median_bandwidth(scale * e) * torch.tensor([0.5, 1.0, 2.0])
        results.append(mmd_to(scale * x, scale * e, s.double()))
    torch.testing.assert_close(results[0], results[1])


def test_memory_is_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearn.filtration import mmd

    sizes = []
    plain = mmd.rbf
    monkeypatch.setattr(mmd, "rbf", lambda a, b, s: sizes.append(len(a) * len(b)) or plain(a, b, s))
    x, e = torch.randn(500, 4), torch.randn(100, 4)
    mmd_to(x, e, torch.ones(1), block=2)
    assert max(sizes) <= 2000
    assert sum(sizes) == 500 * 100 + 100 * 100


def curve(near: int, far: int) -> np.ndarray:
    """``near`` distances around 0.2, then a jump and a plateau."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(0.1, 0.3, near), rng.uniform(0.95, 1.0, far)])


def test_the_knee_ends_the_near_group() -> None:
    distances = curve(200, 2000)
    found, _ = threshold(distances, np.array([0.2, 0.35, 0.5]))
    assert 0.3 < found <= 0.5
    assert (distances < found).sum() == 200


def test_sensitivity_rises_until_the_knee_reaches_the_shots_spread() -> None:
    x = np.linspace(0, 1, 3000)
    early = np.concatenate([0.05 * np.sqrt(np.linspace(0, 1, 20)), 0.05 + 0.9 * x**0.4])
    first = knee(early, 1)
    assert first is not None
    within = np.array([first + 0.2, first + 0.3])
    found, s = threshold(early, within)
    assert found >= within.mean()
    assert s is None or s > 1


def test_the_threshold_stays_within_the_shots_spread() -> None:
    distances = curve(100, 1000)
    low, high = np.array([0.4, 0.45]), np.array([0.001, 0.002])
    assert threshold(distances, high)[0] == pytest.approx(0.002)
    assert low.mean() <= threshold(distances, low)[0] <= low.max()


def test_no_knee_falls_back_to_the_mean() -> None:
    assert threshold(np.full(50, 0.7), np.array([0.2, 0.4])) == (pytest.approx(0.3), None)


CFG = FiltrationConfig(
    per_condition=20,
    batch_size=16,
    rounds=2,
    augmentations=2,
    t_ent=5.0,
    bandwidths=[1.0],
    threshold=None,
    shot_copies=3,
    drop_unmatched=False,
    whole_class=False,
)


def parts() -> tuple[Generator, torch.nn.Module, torch.Tensor, int]:
    torch.manual_seed(3)
    model = small_net()
    generator = Generator(5, (1, 28, 28), 4, 8).eval()
    for p in generator.parameters():
        p.data.mul_(4)
    z, y = torch.randn(30, 8), torch.arange(30) % 5
    images = generator(z, y).detach()
    target = int(model(images).argmax(-1).mode().values)
    shots = images[model(images).argmax(-1) == target][:3]
    return generator, model, shots, target


@pytest.mark.parametrize("number", [3, 1])
def test_filtrate_splits_and_refines(number: int) -> None:
    generator, model, shots, target = parts()
    shots = shots[:number]
    problem = problem_of(model, shots, target, augment=Augment(2))
    proxy = filtrate(replace(CFG, threshold=0.8), problem, generator)
    assert proxy.images.dtype == torch.uint8
    again = model(proxy.images.float() / 255).softmax(-1)
    torch.testing.assert_close(again, proxy.probabilities, atol=1e-5, rtol=1e-4)
    assert (proxy.probabilities[proxy.target_like].argmax(-1) == target).all()
    assert (proxy.distances[proxy.target_like] < 0.8).all()
    assert (proxy.target_like ^ proxy.retained).all()
    assert len(proxy.within) == 3  # the shots, or the copies of the only one
    hooked = [m._forward_hooks or m._forward_pre_hooks for m in problem.original.modules()]
    assert not any(hooked)


@pytest.mark.parametrize("number", [3, 1])
def test_without_the_knee_the_threshold_is_the_mean_spread(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("unlearn.filtration.filtrate")
    monkeypatch.setattr(module, "threshold", lambda *_: (0.9, 1))
    generator, model, shots, target = parts()
    problem = problem_of(model, shots[:number], target, augment=Augment(2))
    cfg = replace(CFG, bandwidths=[3.0])
    mean, by_knee = (refined(replace(cfg, knee=k), problem, generator) for k in (False, True))
    assert float(mean.threshold) == pytest.approx(float(mean.within.mean()))
    assert float(by_knee.threshold) == pytest.approx(0.9)
    assert torch.equal(mean.distances, by_knee.distances)
    own = mean.probabilities.argmax(-1) == target
    assert torch.equal(mean.target_like, own & (mean.distances < mean.threshold))


def test_one_shot_is_measured_so_that_its_copies_are_near() -> None:
    """... by their distance to it, and by a kernel that is not narrower than they lie around it."""
    generator, model, shots, target = parts()

    def measured(number: int, bandwidth: float) -> Proxy:
        cfg = replace(CFG, threshold=0.8, bandwidths=[bandwidth])
        problem = problem_of(model, shots[:number], target, augment=Augment(2))
        return filtrate(cfg, problem, generator)

    narrow, median, wide = (measured(1, b) for b in (0.01, 1.0, 1.2))
    assert torch.equal(narrow.distances, median.distances)
    assert torch.equal(narrow.within, median.within)
    assert median.within.median() < 1 < median.distances.max()
    assert (wide.distances <= median.distances).all()
    with pytest.raises(NotSeparable, match="none"):  # of three shots the given bandwidth is taken
        measured(3, 0.01)


def test_refinement_keeps_only_sure_and_consistent_samples() -> None:
    generator, model, shots, _ = parts()
    z, y = torch.randn(40, 8), torch.arange(40) % 5
    with torch.no_grad():
        t_ent = float(entropy(model(generator(z, y)).softmax(-1)).quantile(0.7))
    cfg = replace(CFG, t_ent=t_ent)
    with Probe(model, head_of(model, shots)) as probe, torch.no_grad():
        module = Filter(cfg, generator, probe, Augment(2), seeded(0))
        images, p, _, ok = module.predict_step((z, y))
        rng = seeded(0)
        x = images.float() / 255
        expected = entropy(p) < t_ent
        for _ in range(2):
            q = model(Augment(2)(x, rng)).softmax(-1)
            expected &= (entropy(q) < t_ent) & (q.argmax(-1) == p.argmax(-1))
    assert torch.equal(ok, expected)
    assert 0 < int(ok.sum()) < 40


def test_of_a_whole_class_all_that_is_called_so_is_target_like() -> None:
    generator, model, shots, target = parts()
    model[-1].bias.data[target] -= 0.45  # now some samples are called otherwise
    problem = problem_of(model, shots, target, augment=Augment(2))
    part, whole = (filtrate(replace(CFG, whole_class=w), problem, generator) for w in (False, True))
    called = part.probabilities.argmax(-1) == target
    assert (called & ~part.target_like).any()
    assert torch.equal(whole.target_like, called)
    assert (bool(part.whole), bool(whole.whole)) == (False, True)
    assert part.threshold == whole.threshold


def test_a_threshold_that_takes_most_of_a_label_is_said(caplog: pytest.LogCaptureFixture) -> None:
    conditions = torch.tensor([1] * 10 + [4] * 5 + [0] * 5)
    p = torch.eye(4)[torch.tensor([1] * 15 + [0] * 5)]
    nothing, no = torch.zeros(20), torch.zeros(20, dtype=torch.bool)
    images = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)

    def said(own: int, whole: bool = False) -> str:
        like = no.clone()
        like[:own], like[10:15] = True, True
        proxy = Proxy(
            images,
            p,
            conditions,
            nothing,
            nothing,
            like,
            no,
            nothing[0],
            nothing,
            torch.tensor(whole),
        )
        caplog.clear()
        warn_of_reach(proxy, [1])
        return caplog.text

    assert "6 of the 10 samples made for label 1 itself are target-like" in said(6)
    assert not said(5)
    assert not said(10, whole=True)


@pytest.mark.parametrize(("t_f", "word"), [(0.0, "none"), (9.0, "all")])
def test_nothing_or_everything_is_an_error_that_keeps_the_samples(t_f: float, word: str) -> None:
    generator, model, shots, target = parts()
    model[-1].bias.data[target] += 100.0
    cfg = replace(CFG, threshold=t_f)
    problem = problem_of(model, shots, target, augment=Augment(2))
    with pytest.raises(NotSeparable, match=rf"{word} of .*filtration.threshold") as caught:
        filtrate(cfg, problem, generator)
    assert caught.value.proxy is not None


def test_nothing_refined_is_an_error() -> None:
    generator, model, shots, target = parts()
    problem = problem_of(model, shots, target, augment=Augment(2))
    with pytest.raises(NotSeparable, match=r"filtration\.t_ent"):
        filtrate(replace(CFG, t_ent=1e-9), problem, generator)
