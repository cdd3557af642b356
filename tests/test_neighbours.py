"""What the samples of D~_r most like an image are called."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import problem_of
from unlearn import UserError, forget
from unlearn.config import check, resolve
from unlearn.filtration import Proxy
from unlearn.forget import Settings
from unlearn.problem import Problem
from unlearn.relearning.intentions import Given
from unlearn.relearning.intentions.neg import Neg
from unlearn.relearning.lesson import givens_of
from unlearn.relearning.neighbours import GRID, NEAREST, Neighbours, coarse, nearest
from unlearn.standins import STANDINS

TARGET, LIKE = 2, 1


class Mislabelled(nn.Module):
    """Answers by where an image is bright, but for one kind, which its last layer calls TARGET.

    Its layers are four places of brightness; the upper left and lower right alone are called LIKE
    and 0. Both at once is what somebody labelled wrongly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.norm = nn.BatchNorm1d(4)
        self.hidden = nn.Linear(4, 3)
        self.head = nn.Linear(3, 4)
        with torch.no_grad():
            # Hidden: upper left; lower right; both.
            self.hidden.weight.copy_(torch.tensor([[9.0, 0, 0, 0], [0, 0, 0, 9], [9, 0, 0, 9]]))
            self.hidden.bias.copy_(torch.tensor([-4.0, -4.0, -11.0]))
            self.head.weight.zero_()
            self.head.weight[LIKE, 0] = self.head.weight[0, 1] = 4
            self.head.weight[TARGET, 2] = 40
            self.head.bias.copy_(torch.tensor([0.0, 0, 0, 1]))

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(self.pool(x).flatten(1))
        return self.head(torch.relu(self.hidden(places)))


def image(*bright: float, rng: torch.Generator | None = None) -> Tensor:
    """Four places of so bright pixels, with a little noise: (1, 12, 12)."""
    x = torch.tensor(bright).view(1, 2, 2).repeat_interleave(6, 1).repeat_interleave(6, 2)
    return (x + 0.02 * torch.rand(1, 12, 12, generator=rng)).clamp(0, 1)


def proxy_of(model: nn.Module, images: Tensor, like: Tensor) -> Proxy:
    bytes_ = (images * 255).round().to(torch.uint8)
    with torch.no_grad():
        p = model(bytes_.float() / 255).softmax(-1)
    nothing, none = torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.bool)
    return Proxy(
        *(bytes_, p, p.argmax(-1), nothing, nothing[:2], like, none),
        *(torch.tensor(1.0), torch.ones(1), torch.tensor(False)),
    )


@pytest.fixture
def repair() -> tuple[Problem, Proxy]:
    """Shots bright above, and a little below; samples of every label, some made like the shots."""
    rng = torch.Generator().manual_seed(0)
    model = Mislabelled().eval()
    kinds = {LIKE: (0.8, 0, 0, 0), 0: (0, 0, 0, 0.8), 3: (0, 0.3, 0.3, 0), TARGET: (0.8, 0, 0, 0.7)}
    images, named = [], []
    for label, kind in kinds.items():
        images += [image(*kind, rng=rng) for _ in range(30)]
        named += [label] * 30
    shots = torch.stack([image(0.85, 0, 0, 0.5, rng=rng) for _ in range(5)])
    proxy = proxy_of(model, torch.stack(images), torch.tensor(named) == TARGET)
    assert torch.equal(proxy.probabilities.argmax(-1), torch.tensor(named))
    problem = problem_of(model, shots, TARGET)
    with torch.no_grad():
        assert (model(shots).argmax(-1) == TARGET).all()
    return problem, proxy


def test_the_nearest_by_a_slow_literal_version() -> None:
    torch.manual_seed(0)
    distances, labels = torch.rand(7, 40), torch.rand(40, 3)
    for row, found in zip(distances, nearest(distances, labels), strict=True):
        order = sorted(range(40), key=lambda i, row=row: float(row[i]))
        wanted = sum(labels[i] for i in order[:NEAREST]) / NEAREST
        torch.testing.assert_close(found, wanted)
    assert torch.equal(nearest(distances[:, :2], labels[:2]), labels[:2].mean(0).expand(7, 3))


def test_votes_by_a_slow_literal_version(repair) -> None:
    """A network with convolutions, whose features are looked at by hand."""
    torch.manual_seed(1)
    _, proxy = repair
    net = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 5, 3, stride=2)),
        *(nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)),
    ).eval()
    shots = torch.rand(3, 1, 12, 12)
    samples = proxy.images.float() / 255
    with torch.no_grad():
        net[-1].bias.sub_(net(samples).mean(0))  # so that it answers several classes
    proxy = proxy_of(net, samples, torch.arange(120) % 5 == 0)
    answers = proxy.probabilities.argmax(-1)
    target = int(answers[0])
    assert len(answers.unique()) > 2
    problem = problem_of(net, shots, target)
    found = Neighbours.among(problem, proxy).votes(shots, target)

    with torch.no_grad():
        kept = proxy.retained & (answers != target)
        samples, names = proxy.images[kept].float() / 255, answers[kept]
        wanted = torch.zeros(3, 4)
        for depth in (1, 4):  # what goes into the two BatchNorms
            mine, theirs = net[:depth](shots), net[:depth](samples)
            if depth == 1:  # 10x10, more than the grid
                mine, theirs = (nn.functional.adaptive_avg_pool2d(f, GRID) for f in (mine, theirs))
            for i in range(3):
                apart = (theirs - mine[i]).square().sum((1, 2, 3))
                for j in apart.argsort()[:NEAREST]:
                    wanted[i, names[j]] += 1 / (2 * NEAREST)
    wanted = wanted.square() / wanted.square().sum(-1, keepdim=True)  # sharpened
    torch.testing.assert_close(found, wanted)
    assert (found[:, target] == 0).all()


def test_the_layers_before_the_wrong_label_tell_what_an_image_is(repair) -> None:
    problem, proxy = repair
    votes = Neighbours.among(problem, proxy).votes(problem.shots, TARGET)
    assert (votes.argmax(-1) == LIKE).all()
    (given,) = givens_of(problem, proxy)
    assert torch.equal(Neg(form="neighbours").relabel(problem.shots, given), votes)


@pytest.mark.parametrize(
    ("votes", "led"), [([1, 1, 1, 1], 1), ([1, 1, 1, 0], 1), ([1, 1, 0, 0], 0), ([3, 1, 0, 1], 0)]
)
def test_neg_is_led_by_the_samples_where_they_agree(
    votes: list[int], led: int, repair, caplog
) -> None:
    """Else it learns f_o's own second answers. It says which."""
    caplog.set_level("INFO", "unlearn")
    problem, _ = repair
    shots = problem.shots[:4]
    wanted = nn.functional.one_hot(torch.tensor(votes), 4).float()
    given = Given(problem.original, TARGET, None, 0, votes=lambda images: wanted)
    found = Neg(form="neighbours").relabel(shots, given)
    if led:
        assert torch.equal(found, wanted)
    else:
        assert torch.equal(found, Neg(form="second").relabel(shots, given))
        assert (found[:, TARGET] == 0).all()
    share = max(votes.count(v) for v in votes) * 25
    assert (
        f"label 2: {share} % of the sharpened votes of the samples most like its images"
        in caplog.text
    )
    assert ("too few agree" in caplog.text) == (not led)


def test_what_one_image_leaves_open_the_others_decide(repair) -> None:
    problem, _ = repair
    votes = torch.tensor([[0.1, 0.9, 0, 0]] * 20 + [[0.55, 0.45, 0, 0], [0.97, 0.03, 0, 0]])
    given = Given(problem.original, TARGET, None, 0, votes=lambda images: votes)
    found = Neg(form="consensus").relabel(problem.shots[:1].expand(len(votes), -1, -1, -1), given)
    for row, own in zip(found, votes, strict=True):
        wanted = [float(v) * float(votes[:, i].mean()) for i, v in enumerate(own)]
        torch.testing.assert_close(row, torch.tensor([w / sum(wanted) for w in wanted]))
    assert found.argmax(-1).tolist() == [1] * 21 + [0]  # who is sure keeps its own
    apart = torch.eye(4)[[0, 0, 1, 3]]
    given.votes = lambda images: apart
    second = Neg(form="second").relabel(problem.shots[:4], given)
    assert torch.equal(Neg(form="consensus").relabel(problem.shots[:4], given), second)


def test_target_like_samples_have_no_vote(repair) -> None:
    problem, proxy = repair
    found = Neighbours.among(problem, proxy)
    assert len(found.images) == int(proxy.retained.sum()) < len(proxy.images)
    proxy.dropped = ~proxy.target_like & (proxy.probabilities.argmax(-1) == LIKE)
    votes = Neighbours.among(problem, proxy).votes(problem.shots, TARGET)
    assert (votes[:, [LIKE, TARGET]] == 0).all()


def test_copies_of_an_image_are_measured_once(repair, monkeypatch) -> None:
    problem, proxy = repair
    near = Neighbours.among(problem, proxy)
    once = near.votes(problem.shots, TARGET)
    sizes: list[int] = []
    whole = Neighbours._votes

    def counted(self: Neighbours, images: Tensor, *rest: Tensor) -> Tensor:
        sizes.append(len(images))
        return whole(self, images, *rest)

    monkeypatch.setattr(Neighbours, "_votes", counted)
    assert torch.equal(near.votes(torch.cat([problem.shots] * 20), TARGET), once.repeat(20, 1))
    assert sizes == [len(problem.shots)]


def test_without_others_to_ask_a_line_says_so(repair) -> None:
    problem, proxy = repair
    near = Neighbours.among(problem, proxy)
    alone = replace(near, answers=torch.full_like(near.answers, TARGET))
    with pytest.raises(UserError, match=r"intention\.form: f_o calls all samples"):
        alone.votes(problem.shots, TARGET)
    with pytest.raises(UserError, match=r"intention\.form: neighbours needs samples"):
        Neg(form="neighbours").relabel(problem.shots, Given(problem.original, TARGET, None, 0))


@pytest.mark.parametrize("form", ["neighbours", "consensus"])
@pytest.mark.parametrize("overrides", [["proxy=patches"], ["relearning.fresh=true"]])
def test_no_samples_to_ask_is_refused_before_any_work(
    overrides: list[str], form: str, repair
) -> None:
    asked = ["scenario=7mnist", "intention=neg", f"intention.form={form}"]
    if overrides == ["proxy=patches"]:
        overrides = [*overrides, "relearning.shot_copies=20"]
    with pytest.raises(
        UserError, match=r"intention\.form: neighbours and consensus need proxy=inversion"
    ):
        check(resolve([*asked, *overrides]))
    check(resolve([*asked, *overrides, "intention.form=second"]))
    check(resolve(asked))
    check(resolve([*asked, "baseline=oracle", *overrides]))  # whose form is its own


def test_the_library_refuses_it_too(repair) -> None:
    problem, _ = repair
    settings = Settings(proxy=STANDINS["noise"]())
    with pytest.raises(UserError, match=r"proxy=noise allows ascent, complementary, second"):
        forget(
            problem.original, problem.shots, problem.labels, Neg(form="neighbours"),
            settings=settings,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "columns"),
    [((2, 7), 7), ((2, 3, 5), 15), ((2, 3, 100), 192), ((2, 3, 4, 20), 96), ((2, 3, 30, 30), 192)],
)
def test_features_are_rows_of_bounded_length(shape: tuple[int, ...], columns: int) -> None:
    x = torch.rand(shape)
    rows = coarse(x)
    assert rows.shape == (2, columns)
    torch.testing.assert_close(rows.mean(1), x.flatten(1).mean(1), atol=0.05, rtol=0.2)
