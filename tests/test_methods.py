"""Methods with the same information: each against a slow literal version; the rule; the barrier."""

from __future__ import annotations

import copy
import json
import logging
import typing
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import (
    OWN,
    TINY,
    ByHand,
    Runs,
    clear_cut,
    digits,
    drilled,
    errors,
    problem_of,
    small_net,
    sure_problem,
    write_images,
)
from unlearn import UserError, forget
from unlearn.config.checks import check
from unlearn.config.compose import resolve
from unlearn.config.schema import COMPETITORS
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import Fit
from unlearn.engine.seeding import seeded
from unlearn.errors import TrainingDiverged
from unlearn.methods import METHODS, MethodStage, Repaired
from unlearn.methods.adv_imp import AdvImp, importance
from unlearn.methods.ascent import Ascent
from unlearn.methods.boundary_shrink import BoundaryShrink
from unlearn.methods.delete import Delete
from unlearn.methods.finetune_shots import FinetuneShots
from unlearn.methods.mu_mis import MUMis
from unlearn.methods.pour import Pour
from unlearn.methods.random_label import RandomLabel
from unlearn.methods.steps import COPIES, GRID, Descent, Objective, Stepwise
from unlearn.models.adapt import Form
from unlearn.models.layout import Layouts
from unlearn.problem import Problem
from unlearn.relearning import INTENTIONS, Intention
from unlearn.runs.run import Run

Cli = Callable[..., tuple[int, str, str]]
# So slow that no shot is called otherwise within the steps.
SLOW: dict[str, Any] = {"lr": 1e-5, "steps": 3}
STEPWISE = [name for name in METHODS if issubclass(METHODS[name], Stepwise)]


def intention_for(name: str) -> Intention:
    return INTENTIONS["cor" if METHODS[name].needs_correct_label else "neg"]()


# --- the losses


def literal(
    problem: Problem,
    method: Stepwise,
    loss: Callable[[nn.Module, int], Tensor],
    after: Callable[[nn.Module], None] = lambda _: None,
) -> nn.Module:
    """What a method's steps come to, one after the other."""
    model = copy.deepcopy(problem.original).eval().requires_grad_()
    by_hand = ByHand(model, method)
    for step in range(method.steps):
        by_hand.step(loss(model, step))
        after(model)
    return model


def agree(problem: Problem, method: Stepwise, expected: nn.Module) -> None:
    """What a method made, weight for weight; f_o is as it was and the steps were taken."""
    before = copy.deepcopy(problem.original.state_dict())
    made = method.unlearn(problem, intention_for(method.name))
    assert len(made.history) == method.steps
    torch.testing.assert_close(problem.original.state_dict(), before, rtol=0, atol=0)
    found = dict(made.model.named_parameters())
    torch.testing.assert_close(found, dict(expected.named_parameters()), rtol=1e-10, atol=1e-12)
    assert any(not torch.equal(p, before[n]) for n, p in found.items())


pytestmark_doubles = pytest.mark.usefixtures("doubles")


@pytestmark_doubles
@pytest.mark.parametrize("cutoff", [10.0, 1e-9])
def test_ascent(cutoff: float) -> None:
    problem, total = sure_problem(), 6

    def loss(model: nn.Module, _: int) -> Tensor:
        parts = []
        for x in problem.shots:
            nll = -model(x[None]).softmax(-1)[0, problem.target].log()
            parts.append(-torch.minimum(nll, torch.tensor(cutoff)))
        return torch.stack(parts).sum() / total

    method = Ascent(**SLOW, weight_decay=0.01, cutoff=cutoff)
    agree(problem, method, literal(problem, method, loss))


@pytestmark_doubles
@pytest.mark.parametrize("masked", [False, True])
def test_random_label(masked: bool) -> None:
    problem = sure_problem()
    rng = seeded(problem.seed, "random_label", "labels")
    labels = (problem.target + torch.randint(1, 4, (6,), generator=rng)) % 4
    assert (labels != problem.target).all()
    original = copy.deepcopy(problem.original).requires_grad_()
    for x in problem.shots:  # gradients add up
        (-original(x[None]).log_softmax(-1)[0, problem.target]).backward()
    sizes = [p.grad.abs().flatten().tolist() for p in original.parameters() if p.grad is not None]
    ranked = torch.tensor(sorted((s for part in sizes for s in part), reverse=True))
    moving = clear_cut(ranked) if masked else len(ranked)
    method = RandomLabel(**SLOW, weight_decay=0.1, moving=moving / len(ranked))
    least = ranked[moving - 1]
    start = [p.detach().clone() for p in original.parameters()]
    kept = [torch.tensor(s).view_as(p) < least for s, p in zip(sizes, start, strict=True)]

    def loss(model: nn.Module, _: int) -> Tensor:
        terms = zip(problem.shots, labels, strict=True)
        return torch.stack([-model(x[None]).log_softmax(-1)[0, y] for x, y in terms]).mean()

    def after(model: nn.Module) -> None:
        for p, first, mask in zip(model.parameters(), start, kept, strict=True):
            p.data[mask] = first[mask]

    agree(problem, method, literal(problem, method, loss, after))
    assert sum(int(mask.sum()) for mask in kept) == len(ranked) - moving


@pytestmark_doubles
def test_delete() -> None:
    problem, y = sure_problem(), sure_problem().target

    def loss(model: nn.Module, _: int) -> Tensor:
        total = torch.tensor(0.0)
        for x in problem.shots:
            with torch.no_grad():
                p = problem.original(x[None])[0].softmax(-1)
            others = [c for c in range(4) if c != y]
            p = p[others] / p[others].sum()
            q = model(x[None])[0].softmax(-1)[others]
            total = total + (p * (p.log() - q.log())).sum()
        return total / len(problem.shots)  # over the batch, not over the classes

    method = Delete(**SLOW)
    agree(problem, method, literal(problem, method, loss))


@pytestmark_doubles
@pytest.mark.parametrize("channels", [1, 3])
def test_boundary_shrink(channels: int) -> None:
    problem = sure_problem(4, channels)
    method = BoundaryShrink(**SLOW, eps=0.3)
    nearest = []
    for image in problem.shots:
        x = image[None].clone().requires_grad_()
        (-problem.original(x).log_softmax(-1)[0, problem.target]).backward()
        assert x.grad is not None
        moved = (x.detach() + 0.3 * x.grad.sign()).clamp(0, 1)
        order = problem.original(moved)[0].argsort(descending=True).tolist()
        nearest.append(next(c for c in order if c != problem.target))

    def loss(model: nn.Module, _: int) -> Tensor:
        terms = zip(problem.shots, nearest, strict=True)
        return torch.stack([-model(x[None]).log_softmax(-1)[0, c] for x, c in terms]).mean()

    agree(problem, method, literal(problem, method, loss))


def drawn(problem: Problem, name: str, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Each step's rows, and what is added to the target for the other class."""
    rng, number = seeded(problem.seed, name, "steps"), len(problem.shots)
    return [
        (torch.randperm(number, generator=rng), torch.randint(1, 4, (number,), generator=rng))
        for _ in range(steps)
    ]


@pytestmark_doubles
def test_mu_mis() -> None:
    problem = sure_problem()
    method = MUMis(**SLOW)
    steps = drawn(problem, "mu_mis", 3)

    def loss(model: nn.Module, step: int) -> Tensor:
        parts = []
        for row, away in zip(*steps[step], strict=True):
            x = problem.shots[row][None].clone().requires_grad_()
            logits = model(x)[0]
            own, other = (
                torch.autograd.grad(logits[c], x, create_graph=True)[0].square().sum()
                for c in (problem.target, int((problem.target + away) % 4))
            )
            parts.append(own - other)
        return torch.stack(parts).mean()

    agree(problem, method, literal(problem, method, loss))


@pytestmark_doubles
def test_mu_mis_takes_layers_that_write_over_their_input() -> None:
    plain = sure_problem()
    writing = copy.deepcopy(plain)
    for module in writing.original.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    made = [MUMis(**SLOW).unlearn(p, INTENTIONS["neg"]()).model for p in (plain, writing)]
    torch.testing.assert_close(*(m.state_dict() for m in made), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("others", "over"),
    [([4.0, 2.0], False), ([4.0, 2.0, 3.0], False), ([4.0, 2.0, 3.0, 5.0], True), ([4.0], False)],
)
def test_mu_mis_ends_past_the_minimum(others: list[float], over: bool) -> None:
    assert MUMis(delta=1.1).over([{"other": v} for v in others]) == over


@pytestmark_doubles
def test_adv_imp() -> None:
    problem = sure_problem(3)
    method = AdvImp(**SLOW, eps=0.5, step=0.1, iterations=4, copies=2, weight=100.0)
    labels = method.labels(problem, 3)
    attacked = attacked_literally(problem, method, labels)
    omega = importance_literally(problem)
    start = {n: p.detach().clone() for n, p in problem.original.named_parameters()}

    def loss(model: nn.Module, _: int) -> Tensor:
        def ce(x: Tensor, y: int) -> Tensor:
            return -model(x[None]).log_softmax(-1)[0, y]

        forget = torch.stack([-ce(x, problem.target) for x in problem.shots]).mean()
        keep = torch.stack([ce(x, int(y)) for x, y in zip(attacked, labels, strict=True)]).mean()
        far = torch.stack(
            [((1 - omega[n]) * (p - start[n]) ** 2).sum() for n, p in model.named_parameters()]
        ).sum()
        return forget * 3 / 9 + keep * 6 / 9 + 100.0 / 2 * far

    agree(problem, method, literal(problem, method, loss))


def attacked_literally(problem: Problem, method: AdvImp, labels: Tensor) -> list[Tensor]:
    rng = seeded(problem.seed, "adv_imp", "attack")
    places = torch.randn(6, 1, 8, 8, generator=rng)
    radii = torch.rand(6, generator=rng)
    found = []
    for i in range(6):
        x = problem.shots[i // 2]
        at = x + places[i] / places[i].norm() * method.eps * radii[i]
        at = at.clamp(0, 1)
        for _ in range(method.iterations):
            moving = at.clone().requires_grad_()
            (-problem.original(moving[None]).log_softmax(-1)[0, labels[i]]).backward()
            assert moving.grad is not None
            at = (at - method.step * moving.grad / moving.grad.norm()).clamp(0, 1)
            away = at - x
            at = x + away * min(1.0, method.eps / float(away.norm()))
        found.append(at)
    return found


def importance_literally(problem: Problem) -> dict[str, Tensor]:
    model = copy.deepcopy(problem.original).eval().requires_grad_()
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for x in problem.shots:
        model.zero_grad()
        (model(x[None]) ** 2).sum().backward()
        for n, p in model.named_parameters():
            assert p.grad is not None
            total[n] += p.grad.abs() / len(problem.shots)
    return {n: (w - w.min()) / (w.max() - w.min()) for n, w in total.items()}


@pytestmark_doubles
def test_importance_and_adversarial_labels() -> None:
    problem = sure_problem(3)
    torch.testing.assert_close(
        importance(problem.original, problem.shots), importance_literally(problem)
    )
    labels = AdvImp(copies=400).labels(problem, 3)
    counts = labels.bincount(minlength=4)
    assert counts[problem.target] == 0
    assert (counts[counts > 0] > 300).all()
    assert (counts > 0).sum() == 3


@pytestmark_doubles
def test_finetune_shots() -> None:
    problem = sure_problem()
    assert problem.correct is not None

    def loss(model: nn.Module, _: int) -> Tensor:
        terms = [-model(x[None]).log_softmax(-1)[0, problem.correct] for x in problem.shots]
        return torch.stack(terms).mean()

    method = FinetuneShots(**SLOW)
    agree(problem, method, literal(problem, method, loss))


@pytestmark_doubles
def test_pour() -> None:
    problem = sure_problem()
    made = Pour().unlearn(problem, INTENTIONS["neg"]())
    y, original = problem.target, problem.original
    w, b = original.get_parameter("8.weight"), original.get_parameter("8.bias")
    features = original[:8](problem.shots)  # type: ignore[index]
    projected = features - (features @ w[y])[:, None] * w[y] / (w[y] @ w[y])
    torch.testing.assert_close(made.model.eval()(problem.shots), projected @ w.T + b)
    with torch.no_grad():
        said = made.model(problem.shots).argmax(-1)
    share = float((said != y).double().mean())
    assert made.chosen == {"held": share, "reached": share == 1}


def test_pour_needs_a_linear_layer_that_may_change() -> None:
    problem = sure_problem()
    object.__setattr__(problem, "form", Form(frozen=frozenset({"8.weight"})))
    with pytest.raises(UserError, match=r"model: pour changes layer '8', which is frozen"):
        Pour().unlearn(problem, INTENTIONS["neg"]())
    object.__setattr__(problem, "head", None)
    with pytest.raises(UserError, match=r"baseline: pour needs a model that ends in a linear"):
        Pour().unlearn(problem, INTENTIONS["neg"]())


# --- what all have in common


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("batchnorm", ["frozen", "train"])
def test_running_statistics_move_only_where_asked_for(name: str, batchnorm: str) -> None:
    problem = sure_problem()
    small: dict[str, Any] = {"iterations": 2, "copies": 2} if name == "adv_imp" else {}
    method = METHODS[name](batchnorm=batchnorm, **SLOW, **small)  # type: ignore[call-arg]
    made = method.unlearn(problem, intention_for(name))
    before, after = (m.get_buffer("1.running_mean") for m in (problem.original, made.model))
    assert torch.equal(before, after) == (batchnorm == "frozen")


def test_more_shots_than_a_batch() -> None:
    """Every shot takes part in a pass, and it is looked at after a pass."""
    problem, seen = sure_problem(), []

    class Seeing(Ascent):
        def objective(self, problem: Problem, images: Tensor) -> Objective:
            plain = super().objective(problem, images)

            def losses(model: nn.Module, rows: Tensor, rng: torch.Generator) -> Any:
                seen.append(rows.tolist())
                return plain.losses(model, rows, rng)

            return Objective(losses)

    made = Seeing(lr=1e-5, steps=6, batch_size=2).unlearn(problem, INTENTIONS["neg"]())
    for steps in (seen[:3], seen[3:]):
        assert sorted(row for rows in steps for row in rows) == list(range(6))
    assert [row["step"] for row in made.history if "held" in row] == [3, 6]


# --- the rule


class OneBias(Stepwise):
    """Each step lowers the target's bias by the learning rate."""

    def objective(self, problem: Problem, images: Tensor) -> Objective:
        self.rows: list[int] = []

        def losses(model: nn.Module, rows: Tensor, _: torch.Generator) -> dict[str, Tensor]:
            self.rows += rows.tolist()
            bias = model.get_parameter("1.bias")[problem.target]
            loss = bias + model(images[rows]).sum() * 0
            return {"loss": loss / (bias > self.lowest)}

        return Objective(losses)

    lowest = -torch.inf


def one_bias(gap: float, shots: int = 6, lowest: float = -torch.inf) -> tuple[OneBias, Problem]:
    """A model that calls everything 0 by a logit that is larger by ``gap``."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([gap, 0.0, 0.0]))
        model[1].weight[2, 0] = 1e-6  # answers that are all alike are no model's
    images = torch.rand(shots, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    method = OneBias("one_bias", steps=10, momentum=0.0)
    method.lowest = lowest
    return method, problem_of(model, images, 0, augment=Augment(1, 15.0))


@pytest.mark.parametrize(
    ("gap", "lr", "steps"), [(0.02, 3e-3, 7), (5.5e-4, 1e-4, 6), (0.35, 0.1, 4), (2.5e-5, 1e-5, 3)]
)
def test_the_smallest_rate_that_reaches_the_intention(gap: float, lr: float, steps: int) -> None:
    method, problem = one_bias(gap)
    made = method.unlearn(problem, INTENTIONS["neg"]())
    assert made.chosen["lr"] == lr
    assert (made.chosen["steps"], made.chosen["held"], made.chosen["reached"]) == (steps, 1, True)
    tried = made.chosen["tried"]
    assert [row["lr"] for row in tried] == [g for g in GRID if g <= lr]
    assert [row["held"] for row in tried] == [0] * (len(tried) - 1) + [1]
    assert [row["step"] for row in made.history] == list(range(1, steps + 1))
    assert made.history[-1]["held"] == 1


def test_half_is_held_out_of_the_steps() -> None:
    method, problem = one_bias(0.02, shots=7)
    objective = method.objective(problem, problem.shots)
    descent = Descent(method, problem, INTENTIONS["neg"](), problem.shots, objective)
    descent.choose()
    assert len(set(method.rows)) == 4


def test_no_rate_reaches_it(caplog: pytest.LogCaptureFixture) -> None:
    method, problem = one_bias(5.0)
    with caplog.at_level(logging.WARNING):
        made = method.unlearn(problem, INTENTIONS["neg"]())
    assert made.chosen["lr"] == GRID[0]  # all are alike: the smallest
    assert (made.chosen["held"], made.chosen["reached"]) == (0, False)
    first, second = (r.getMessage() for r in caplog.records)
    assert first.startswith("one_bias: no lr from 1e-05 to 0.1 reaches the intention on the held")
    assert second.endswith("with lr 1e-05 the intention holds on 0 % of the shots after 50 steps")


def test_a_rate_that_diverges_is_none() -> None:
    method, problem = one_bias(0.05, lowest=0.0451)  # NaN or infinite once it fell by so much
    made = method.unlearn(problem, INTENTIONS["neg"]())
    assert [row["lr"] for row in made.chosen["tried"]] == [1e-5, 3e-5, 1e-4, 3e-4]
    with pytest.raises(TrainingDiverged, match=r"one_bias: .*lower baseline\.lr"):
        OneBias.unlearn(_with_rate(method, 3e-3), problem, INTENTIONS["neg"]())


def _with_rate(method: OneBias, lr: float) -> OneBias:
    method.lr = lr
    return method


def test_a_given_rate_is_taken() -> None:
    method, problem = one_bias(0.025)
    made = _with_rate(method, 0.01).unlearn(problem, INTENTIONS["neg"]())
    assert (made.chosen["lr"], made.chosen["steps"], made.chosen["tried"]) == (0.01, 3, [])


def test_one_shot_stands_with_its_copies() -> None:
    method, problem = one_bias(0.02, shots=1)
    made = method.unlearn(problem, INTENTIONS["neg"]())
    assert made.chosen["lr"] == 3e-3
    assert set(method.rows) == set(range(COPIES + 1))


def test_cor_holds_where_the_right_label_is_answered() -> None:
    method, problem = one_bias(0.02)
    object.__setattr__(problem, "corrects", (1,))
    with torch.no_grad():
        problem.original.get_parameter("1.bias")[2] = 0.01  # then 2 is answered, not 1
    made = method.unlearn(problem, INTENTIONS["cor"]())
    assert made.chosen["held"] == 0


# --- the barrier

LABELS = tuple[int, ...]
PLAIN_TYPES = {nn.Module, Tensor, int, LABELS, LABELS | None, Augment, str | None}
PLAIN_TYPES |= {Layouts | None, Form}


def test_a_method_is_handed_a_problem_and_an_intention_and_no_data() -> None:
    for name in METHODS:
        hints = typing.get_type_hints(METHODS[name].unlearn)
        assert hints == {"problem": Problem, "intention": Intention, "return": Repaired}
    held = typing.get_type_hints(Problem)
    assert {held[f.name] for f in fields(Problem)} == PLAIN_TYPES
    tensors = [f.name for f in fields(Problem) if held[f.name] is Tensor]
    assert tensors == ["shots", "labels"]


# --- by the library call


def test_forgetting_by_another_method(tmp_path: Path) -> None:
    problem = sure_problem()
    labels = [problem.target] * 6
    model = copy.deepcopy(problem.original)
    result = forget(model, problem.shots, labels, method="ascent", store=tmp_path)
    with torch.no_grad():
        assert (result.model(problem.shots).argmax(-1) != problem.target).all()
    assert result.chosen["reached"]
    assert result.chosen["lr"] in GRID
    assert len(result.history["ascent"]) == result.chosen["steps"]
    assert [row["lr"] for row in result.history["ascent_lr"]] == [
        row["lr"] for row in result.chosen["tried"]
    ]
    again = forget(model, problem.shots, labels, method="ascent", store=tmp_path)
    assert again.seconds == result.seconds  # from the store
    own = forget(model, problem.shots, labels, method=Ascent(lr=0.01), store=tmp_path)
    assert own.stages != result.stages
    assert own.chosen["lr"] == 0.01


@pytest.mark.parametrize(
    ("method", "intention", "said"),
    [
        ("delet", "neg", "method: 'delet' is not one of .*did you mean 'delete'"),
        ("delete", "cor", "intention: delete serves neg, std, unt, not cor"),
        ("finetune_shots", "neg", "intention: finetune_shots serves cor, not neg"),
        (Ascent(lr=0), "neg", "baseline.lr: 0 is neither auto nor a number above 0"),
        (Ascent(lr="fast"), "neg", "baseline.lr: 'fast' is neither auto"),
        (Ascent(steps=0), "neg", "baseline.steps: 0 is not 1 or more"),
        (Ascent(momentum=1.0), "neg", "baseline.momentum"),
        (Ascent(batchnorm="train", batch_size=1), "neg", "baseline.batch_size: 1 is not 2 or more"),
        (
            AdvImp(batchnorm="train", copies_in_step=1),
            "neg",
            "baseline.copies_in_step: 1 is not 2 or more",
        ),
        (Ascent(batchnorm="eval"), "neg", "baseline.batchnorm: 'eval' is not one of frozen, train"),
        (Ascent(cutoff=0), "neg", "baseline.cutoff"),
        (RandomLabel(moving=0), "neg", "baseline.moving"),
        (BoundaryShrink(eps=0), "neg", "baseline.eps"),
        (MUMis(delta=0), "neg", "baseline.delta"),
        (AdvImp(copies=0), "neg", "baseline.copies"),
        (AdvImp(weight=-1), "neg", "baseline.weight"),
    ],
)
def test_what_cannot_be_is_refused(method: Any, intention: str, said: str) -> None:
    shots, right = torch.rand(3, 1, 28, 28), [1] * 3 if intention == "cor" else None
    with pytest.raises(UserError, match=said):
        forget(small_net(), shots, [0] * 3, intention, right, method=method)


def test_the_losses_are_logged() -> None:
    seen: list[tuple[dict[str, float], int]] = []

    class Listening:
        def log_metrics(self, named: dict[str, float], step: int) -> None:
            seen.append((named, step))

    stage = MethodStage(Ascent(**SLOW), INTENTIONS["neg"]())
    stage.make(sure_problem(), Fit(logger=Listening()))  # type: ignore[arg-type]
    assert [step for _, step in seen] == [1, 2, 3]
    assert set(seen[-1][0]) == {"ascent/loss", "ascent/held"}


# --- on the command line


@pytest.mark.parametrize("name", METHODS.list())
def test_conf_has_the_defaults(name: str) -> None:
    intention = "cor" if METHODS[name].needs_correct_label else "neg"
    whole = METHODS[name].needs_whole_class
    scenario = "truck_cifar10" if whole else "7noisymnist"
    cfg = resolve([f"baseline={name}", f"intention={intention}", f"scenario={scenario}"])
    check(cfg)
    assert cfg.baseline == METHODS[name]()
    assert cfg.baseline.name == name  # type: ignore[union-attr]
    assert asdict(METHODS[name]()) == asdict(cfg.baseline)  # type: ignore[call-overload]


def folder(*overrides: str) -> Path:
    cfg = resolve(["scale=demo", "scenario=class_mnist", "scenario.digit=9", *overrides])
    check(cfg)
    return Run(cfg).folder


def test_which_settings_the_result_depends_on() -> None:
    base = folder("baseline=delete")
    assert base.parts[-3:-1] == ("class_mnist-9", "delete-neg")
    for same in ("inversion.steps=7", "relearning.lr=0.5", "filtration.t_ent=3", "proxy=noise"):
        assert folder("baseline=delete", same) == base, same
    for other in ("seed=1", "shot=1img", "intention=std", "baseline.lr=0.1", "training.epochs=1"):
        assert folder("baseline=delete", other) != base, other
    pour = folder("baseline=pour")
    assert folder("baseline=pour", "seed=1") == pour
    assert folder("baseline=pour", "shot=1img") != pour


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("baseline=pour scenario=7mnist", "baseline: pour needs a scenario .*class_mnist"),
        ("baseline=delete scenario=7noisymnist intention=cor", "intention: delete serves"),
        ("baseline=finetune_shots", "intention: finetune_shots serves cor, not neg"),
        ("baseline=finetune_shots intention=cor scenario=7mnist", "intention: cor needs a scen"),
        ("baseline=delete baseline.lr=no", "baseline.lr"),
    ],
)
def test_what_cannot_be_is_refused_on_the_command_line(overrides: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(resolve(overrides.split()))


def test_every_competitor_has_its_yaml() -> None:
    from unlearn.config.compose import names

    assert names("baseline") == sorted(["none", *COMPETITORS])


@pytest.mark.slow
def test_a_run(cli: Cli, tmp_path: Path) -> None:
    words = [*TINY, "scenario=7noisymnist", "baseline=finetune_shots", "intention=cor"]
    status, out, err = cli(*words, "baseline.steps=4", "baseline.lr=0.01")
    assert status == 0, err
    record = json.loads(Path(out.split()[-1]).read_text())
    assert (record["method"], record["intention"], record["shots"]) == ("finetune_shots", "cor", 5)
    assert (record["shot"], record["seed"]) == ("5img", 0)
    assert record["chosen"]["lr"] == 0.01
    assert record["chosen"]["steps"] <= 4
    assert "samples" not in record
    assert set(record["seconds"]) == {"training", "finetune_shots", "evaluation"}
    history = (Path(out.split()[-1]).parent / "history.csv").read_text()
    assert "finetune_shots,1,loss," in history or record["chosen"]["steps"] == 0
    status, out, err = cli("plan", *words, "baseline.steps=4", "baseline.lr=0.01,0.1", "-m")
    assert status == 0, errors(err)
    assert "finished" in out
    assert "to do" in out


NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
"""


@pytest.mark.slow
def test_a_run_of_ones_own_model(cli: Cli, tmp_path: Path) -> None:
    x, y = digits(6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 4))
    torch.save(drilled(model, x, y, 1e-2).state_dict(), "mine.pt")
    write_images(Path("wrong"), x[y == 2])
    Path("net_of_mine.py").write_text(NET)
    words = ["model=python", "model.factory=net_of_mine:build", "model.checkpoint=mine.pt"]
    words += ["model.image_size=28", "model.mean=0", "model.std=1", "scenario.label=2"]
    status, out, err = cli(*OWN, *words, "scenario.shots=wrong", "baseline=delete")
    assert status == 0, err
    record = json.loads(Path(out.split()[-1]).read_text())
    assert (record["method"], record["shots"]) == ("delete", 6)
    assert record["chosen"]["reached"]  # its training images are 6: they can all be mislabelled
    assert record["metrics"]["target_on_shots"] == 0
    repaired = Path(out.split()[-1]).with_name("mine.pt")
    model.load_state_dict(torch.load(repaired, weights_only=True))
    with torch.no_grad():
        assert (model(x[y == 2]).argmax(-1) != 2).all()


def test_the_plan_of_a_table_is_that_of_its_sweep(cli: Cli) -> None:
    status, out, err = cli("plan", "experiment=same_information", "baseline=pour")
    assert status == 0, errors(err)
    assert "2 jobs, 2 to do" in out  # two columns, one seed: it draws nothing


def test_a_table_finds_its_runs(tmp_path: Path) -> None:
    """Runs of another method are told from ours and from each other."""
    runs = Runs(tmp_path)
    runs.leave("baseline=delete", "intention=neg", "scenario=7mnist")
    from unlearn.report.runs import find_runs

    (run,) = find_runs([tmp_path]).runs
    assert run.method == "delete"
