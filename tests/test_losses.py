"""Every loss of the inversion against a slow, literal transcription of its equation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unlearn.inversion import losses as L
from unlearn.relearning.intentions.neg import l_ascent, l_complementary
from unlearn.relearning.relearn import l_retain


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def num(x: Tensor) -> float:
    return float(x.detach())


def close(a: Tensor, b: float) -> None:
    assert num(a) == pytest.approx(b, rel=1e-10)


def test_l_ent() -> None:
    logits, y = rand(5, 3), torch.tensor([0, 2, 1, 1, 0])
    slow = 0.0
    for i in range(5):
        row = logits[i].detach().tolist()
        slow += -math.log(math.exp(row[y[i]]) / sum(math.exp(v) for v in row)) / 5
    close(L.l_ent(logits, y), slow)
    assert torch.autograd.gradcheck(lambda v: L.l_ent(v, y), logits)


def test_l_aug_is_equation_1() -> None:
    p, q = rand(4, 3), rand(2, 4, 3)
    slow = 0.0
    for i in range(4):
        for phi in range(2):
            slow += sum((num(p[i, c]) - num(q[phi, i, c])) ** 2 for c in range(3))
    close(L.l_aug(p, q), slow / 4)
    assert torch.autograd.gradcheck(L.l_aug, (p, q))


@pytest.mark.parametrize("squared", [True, False])
def test_l_tar_is_equation_2(squared: bool) -> None:
    a, b = [rand(3), rand(5)], [rand(3), rand(5)]
    slow = 0.0
    for x, y in zip(a, b, strict=True):
        gap = sum((num(u) - num(v)) ** 2 for u, v in zip(x, y, strict=True))
        slow += gap if squared else math.sqrt(gap)
    close(L.l_tar(a, b, squared), slow)
    assert torch.autograd.gradcheck(lambda *m: L.l_tar(m, b, squared), tuple(a))


@pytest.mark.parametrize("squared", [True, False])
def test_l_bn(squared: bool) -> None:
    parts = [[rand(3), rand(2)] for _ in range(4)]
    slow = 0.0
    for ours, theirs in ((parts[0], parts[2]), (parts[1], parts[3])):
        for x, y in zip(ours, theirs, strict=True):
            gap = sum((num(u) - num(v)) ** 2 for u, v in zip(x, y, strict=True))
            slow += gap if squared else math.sqrt(gap)
    close(L.l_bn(*parts, squared=squared), slow)
    assert torch.autograd.gradcheck(
        lambda *m: L.l_bn(m[:2], m[2:], parts[2], parts[3], squared), (*parts[0], *parts[1])
    )


@pytest.mark.parametrize("scaled", [True, False])
def test_l_div_is_equation_5(scaled: bool) -> None:
    z, f = rand(7, 4), rand(7, 3)
    y = torch.tensor([0, 0, 2, 2, 2, 0, 3])
    rows_z, rows_f = z.tolist(), f.tolist()
    size_z = math.sqrt(2 * 4) if scaled else 1.0
    size_f = sum(abs(v) for r in rows_f for v in r) / 7 if scaled else 1.0
    terms = []
    for c in (0, 2, 3):
        members = [i for i in range(7) if int(y[i]) == c]
        total = 0.0
        for i in members:
            for j in members:
                total += (
                    math.dist(rows_z[i], rows_z[j])
                    / size_z
                    * (sum(abs(a - b) for a, b in zip(rows_f[i], rows_f[j], strict=True)) / size_f)
                )
        terms.append(math.exp(-total / len(members) ** 2))
    for same in (L.Conditions.of(y, 5), L.Conditions.of(y, 5, 4)):
        close(L.l_div(z, f, same, scaled), sum(terms) / 3)
        ours, all_pairs = (
            torch.autograd.grad(loss, f)[0]
            for loss in (L.l_div(z, f, same, scaled), every_pair(z, f, y, 5, scaled))
        )
        torch.testing.assert_close(ours, all_pairs, rtol=1e-10, atol=1e-14)
        if not scaled:  # the size is not differentiated, so that finite differences do not apply
            still = (z.detach(), f, same, False)
            assert torch.autograd.gradcheck(L.l_div, still)


def every_pair(z: Tensor, f: Tensor, y: Tensor, number: int, scaled: bool) -> Tensor:
    """Eq. 5 from the distances of all rows of the batch."""
    z_distance, f_distance = (z[:, None] - z).norm(dim=-1), (f[:, None] - f).abs().sum(-1)
    if scaled:
        z_distance = z_distance / math.sqrt(2 * z.shape[1])
        f_distance = f_distance / f.detach().abs().sum(1).mean()
    both = z_distance * f_distance
    terms = [both[y == c][:, y == c] for c in range(number) if (y == c).any()]
    return torch.stack([torch.exp(-pairs.mean()) for pairs in terms]).mean()


def test_l_div_pushes_a_collapsed_batch_apart_only_when_scaled() -> None:
    z, same = torch.randn(20, 100), L.Conditions.of(torch.zeros(20, dtype=torch.long), 1)
    f = (50 + torch.randn(20, 512)).requires_grad_()
    scaled = torch.autograd.grad(L.l_div(z, f, same, True), f)[0]
    unscaled = torch.autograd.grad(L.l_div(z, f, same, False), f)[0]
    assert scaled.abs().sum() > 0
    assert unscaled.abs().sum() == 0


def test_l_tv_is_equation_6() -> None:
    x = rand(2, 2, 3, 4)
    slow = 0.0
    for image in x.tolist():
        for channel in image:
            for i in range(3):
                for j in range(4):
                    for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                        if 0 <= i + di < 3 and 0 <= j + dj < 4:
                            slow += (channel[i][j] - channel[i + di][j + dj]) ** 2
    close(L.l_tv(x, "sum"), slow)
    close(L.l_tv(x, "mean"), slow / x.numel())
    assert torch.autograd.gradcheck(lambda v: L.l_tv(v, "sum"), x)


def test_l_ascent_stops_at_its_cutoff() -> None:
    logits = torch.tensor([[0.0, 1.0], [30.0, 0.0]], dtype=torch.float64, requires_grad=True)
    wrong = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    near = -math.log(math.exp(0) / (math.exp(0) + math.exp(1)))
    close(l_ascent(logits, wrong, 10.0), -(near + 10.0) / 2)
    gradient = torch.autograd.grad(l_ascent(logits, wrong, 10.0), logits)[0]
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


def test_l_complementary() -> None:
    logits = rand(4, 3)
    wrong = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 1]), 3).double()
    p = logits.softmax(-1)
    slow = sum(-math.log(1 - num(p[i, int(wrong[i].argmax())])) for i in range(4)) / 4
    close(l_complementary(logits, wrong), slow)
    assert torch.autograd.gradcheck(lambda v: l_complementary(v, wrong), logits)
    sure = torch.tensor([[80.0, 0.0, 0.0]], requires_grad=True)
    loss = l_complementary(sure, torch.tensor([[1.0, 0.0, 0.0]]))
    assert num(loss) == pytest.approx(80 - math.log(2))
    assert torch.autograd.grad(loss, sure)[0].abs().sum() > 1


def test_l_retain_softens_as_logits_would() -> None:
    teacher, student = rand(6, 4), rand(6, 4)
    t = 3.0
    p, q = (teacher / t).softmax(-1), (student / t).log_softmax(-1)
    slow = -t * t * num((p * q).sum()) / 6
    close(l_retain(student, teacher.softmax(-1), t), slow)
    hard = -num((teacher.softmax(-1) * student.log_softmax(-1)).sum()) / 6
    close(l_retain(student, teacher.softmax(-1)), hard)
