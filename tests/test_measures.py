"""The measures against slow literal versions, SciPy, and cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.svm import SVC
from torch import Tensor, nn

from tests.helpers import small_net
from unlearn import UserError
from unlearn.engine.statistics import entropy
from unlearn.evaluation.attacks import attack_success_rate, judged_at, membership
from unlearn.evaluation.distance import agreement, distances, js_divergence, tug_of_war
from unlearn.evaluation.outputs import outputs
from unlearn.evaluation.watermark import feature_norms
from unlearn.models import ModelConfig, build


def entropies(number: int, hard: float, seed: int) -> Tensor:
    """As classifiers have them: most nearly 0, a share ``hard`` spread over [0, 2]."""
    rng = torch.Generator().manual_seed(seed)
    h = 10 ** (-7 + 6 * torch.rand(number, generator=rng))
    unsure = torch.rand(number, generator=rng) < hard
    return torch.where(unsure, 2 * torch.rand(number, generator=rng), h)


def probabilities(number: int, classes: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (4 * torch.randn(number, classes, generator=rng)).double().softmax(-1)


def test_the_attack_is_the_support_vector_machine() -> None:
    members, nonmembers = entropies(300, 0.1, 0), entropies(300, 0.4, 1)
    judged = {"all": entropies(5000, 0.5, 2), "few": entropies(20, 0.5, 3), "members": members}
    svm = SVC(C=3, gamma=1.0).fit(
        torch.cat([members, nonmembers])[:, None].double().numpy(), [1] * 300 + [0] * 300
    )
    called = {k: svm.predict(h[:, None].double().numpy()).mean() for k, h in judged.items()}
    assert attack_success_rate(members, nonmembers, judged, 0) == pytest.approx(called, abs=1e-9)
    assert 0.1 < called["all"] < 0.9


def test_the_attack_is_fitted_to_as_many_of_each_kind() -> None:
    # On all of them, 1 to 9, it would call everything a member.
    rate = attack_success_rate(
        torch.rand(900) * 0.1, 0.2 + torch.rand(100) * 0.1, {"new": 0.2 + torch.rand(50) * 0.1}, 0
    )
    assert rate["new"] < 0.1


def test_the_attack_on_extremes() -> None:
    low, high = torch.full((50,), 1e-6), torch.full((40,), 1.5)
    rates = attack_success_rate(low, high, {"low": low, "high": high, "one": low[:1]}, 0)
    assert rates == {"low": 1.0, "high": 0.0, "one": 1.0}
    nothing = torch.zeros(5)
    assert attack_success_rate(nothing, nothing, {"x": nothing}, 0)["x"] in (0.0, 1.0)


def test_membership_of_separable_and_of_like_images() -> None:
    low, high = 1e-3 * torch.rand(200), 1 + torch.rand(150)
    told = membership(low, high, low[:30], high[:7], 0)
    perfect = {"balanced_accuracy": 1.0, "auc": 1.0, "tpr_at_1_fpr": 1.0}
    assert told == {"D_r": perfect, "D_e": perfect}
    untold = membership(*(entropies(4000, 0.3, s) for s in range(4)), 0)
    for values in untold.values():
        assert values["auc"] == pytest.approx(0.5, abs=0.03)
        assert values["balanced_accuracy"] == pytest.approx(0.5, abs=0.03)
        assert values["tpr_at_1_fpr"] < 0.03


def test_membership_is_not_judged_on_what_it_was_fitted_to() -> None:
    # A threshold that had seen the images it is judged on would find 0.66 in so few of one kind.
    few = [
        membership(entropies(8, 1, s), entropies(8, 1, 99 + s), *[torch.rand(2)] * 2, 0)
        for s in range(60)
    ]
    mean = sum(told["D_r"]["balanced_accuracy"] for told in few) / len(few)
    assert mean == pytest.approx(0.5, abs=0.07)
    # On D_e the entropies are reversed; fitted to them, the threshold would look right.
    low, high = torch.rand(100) * 0.1, 1 + torch.rand(100)
    told = membership(low, high, high[:20], low[:20] / 2, 0)
    assert told["D_r"]["auc"] == 1.0
    assert told["D_e"] == {"balanced_accuracy": 0.0, "auc": 0.0, "tpr_at_1_fpr": 0.0}


def literal(members: list[float], nonmembers: list[float], t: float) -> dict[str, float]:
    pairs = [(a < b) + (a == b) / 2 for a in members for b in nonmembers]
    limits = sorted({-1.0, *members, *nonmembers})
    true_rates = [
        sum(a <= limit for a in members) / len(members)
        for limit in limits
        if sum(b <= limit for b in nonmembers) / len(nonmembers) <= 0.01
    ]
    right = sum(a <= t for a in members) / len(members)
    right += sum(b > t for b in nonmembers) / len(nonmembers)
    return {
        "balanced_accuracy": right / 2,
        "auc": sum(pairs) / len(pairs),
        "tpr_at_1_fpr": max(true_rates),
    }


@pytest.mark.parametrize(("m", "n"), [(40, 230), (1, 30), (30, 1), (1, 1)])
def test_rates_are_the_literal_ones_even_with_ties(m: int, n: int) -> None:
    members = (entropies(m, 0.6, 0) * 8).round() / 8
    nonmembers = (entropies(n, 0.9, 1) * 8).round() / 8 + 0.125
    for t in (0.0, 0.125, 0.5):
        expected = literal(members.tolist(), nonmembers.tolist(), t)
        assert judged_at(members, nonmembers, t) == pytest.approx(expected)


def test_feature_norms() -> None:
    assert feature_norms(torch.tensor([1.0, 2.0, 6.0])) == pytest.approx((3.0, math.sqrt(7)))
    assert feature_norms(torch.tensor([2.5])) == (2.5, 0.0)


def test_agreement() -> None:
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert agreement(p, p) == 1
    assert agreement(p, torch.tensor([[0.6, 0.4], [0.7, 0.3], [1.0, 0.0]])) == pytest.approx(2 / 3)
    assert agreement(p, p.flip(1)) == 0


def test_js_divergence_is_scipys() -> None:
    p, q = probabilities(20, 7, 0), probabilities(20, 7, 1)
    p[0], q[0] = torch.eye(7)[0], torch.eye(7)[1]  # no common answer
    slow = np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p.numpy(), q.numpy(), strict=True)])
    assert js_divergence(p, q) == pytest.approx(float(slow), rel=1e-9)
    assert js_divergence(q, p) == pytest.approx(float(slow), rel=1e-9)
    assert js_divergence(p[:1], q[:1]) == pytest.approx(math.log(2))
    assert js_divergence(p, p) == pytest.approx(0, abs=1e-12)


def test_tug_of_war() -> None:
    assert tug_of_war(0, 0, 0) == 1
    assert tug_of_war(0.5, -0.1, 0.2) == pytest.approx(0.5 * 0.9 * 0.8)
    assert tug_of_war(0, 0, -1) == 0


def test_the_factors_of_the_tug_of_war() -> None:
    """D_e and D_r are those of D; the third is the whole test set, a quarter of it like D_e."""
    erased = torch.arange(8) < 2
    ours = {"D_r": 0.9, "D_e": 0.2, "train_D_r": 0.95, "train_D_e": 0.1}
    oracle = {"D_r": 0.8, "D_e": 0.0, "train_D_r": 1.0, "train_D_e": 0.3}
    p = probabilities(8, 3, 0)
    found = distances(p, p, erased, ours, oracle)
    test = (2 * 0.2 + 6 * 0.9) / 8 - (6 * 0.8) / 8
    assert found["oracle_abs_test"] == pytest.approx(test)
    assert found["tug_of_war"] == pytest.approx((1 - 0.2) * (1 - 0.05) * (1 - test))
    assert found["oracle_abs_train_D_e"] == pytest.approx(0.2)
    assert distances(p, p, erased, ours, ours)["tug_of_war"] == 1


class Masked(nn.Module):
    """A classifier whose first logit is hidden after its linear layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits - 1e4 * torch.eye(logits.shape[1])[0]

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.inner.features(x)  # type: ignore[operator]
        return features


def test_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build(ModelConfig("small_cnn", "batch", 4), 1, 5, [0.2], [0.3]).train()
    x = torch.randint(0, 256, (23, 1, 28, 28), dtype=torch.uint8)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    again = outputs(model, x)
    monkeypatch.setattr("unlearn.evaluation.outputs.batch_on", lambda device: 7)
    seen = outputs(model, x)
    assert model.training
    torch.testing.assert_close(model.state_dict(), state)
    model.eval()
    with torch.no_grad():
        p, norms = model(x / 255).double().softmax(-1), model.features(x / 255).norm(dim=1)
    torch.testing.assert_close(seen.probabilities, p, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(seen.norms, norms, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen.probabilities, again.probabilities, rtol=1e-5, atol=1e-7)
    hidden = outputs(Masked(model), x)
    assert (hidden.probabilities[:, 0] == 0).all()
    torch.testing.assert_close(hidden.norms, seen.norms, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="penultimate"):
        outputs(nn.Sequential(small_net(), nn.Softmax(-1)), x)


def test_sure_answers_keep_their_order() -> None:
    head = nn.Linear(1, 2)
    head.weight.data, head.bias.data = torch.tensor([[255.0], [0.0]]), torch.zeros(2)
    x = torch.arange(15, 40, dtype=torch.uint8).view(-1, 1, 1, 1)
    h = entropy(outputs(nn.Sequential(nn.Flatten(), head), x).probabilities)
    assert (h.diff() < 0).all()  # in float32 all beyond some 17 nats would be 0
