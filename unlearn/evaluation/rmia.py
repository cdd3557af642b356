"""RMIA: a membership attack with reference models (Zarifzadeh et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn.engine.seeding import seeded
from unlearn.errors import UserError
from unlearn.evaluation.attacks import LOW_FPR, roc
from unlearn.evaluation.base import ON_REQUEST, Evidence
from unlearn.evaluation.outputs import outputs
from unlearn.evaluation.references import References
from unlearn.scenarios import Task

A = 0.3  # not fitted here; the paper of the attack fits it by reference models
DRAWS = 1000
INTERVAL = (0.025, 0.975)


@ON_REQUEST.register("rmia")
def rmia(seen: Evidence) -> dict[str, float]:
    """``rmia_*``: how well D_e's training images can be told from test images like them.

    ``rmia_auc`` with its bootstrap interval (``_low``, ``_high``), the same less the oracle's
    (``rmia_auc_less_oracle``), ``rmia_tpr_at_1_fpr`` with the step of the false positive rate
    (``rmia_fpr_step``), and ``rmia_references``, the number of reference models.

    Raises:
        UserError: if there are no reference models.
    """
    references = seen.others.references()
    if references is None:
        raise UserError("rmia", "needs reference models; `unlearn evaluate --only rmia` has them")
    task = seen.task
    ours = attack(
        task,
        seen.train.probabilities[task.forget],
        seen.test.probabilities,
        references,
        seen.seed,
    )
    found = {
        "rmia_tpr_at_1_fpr": true_positives(*ours),
        "rmia_fpr_step": 1 / len(ours[1]),
        "rmia_references": float(len(references.halves)),
    }
    found |= named("rmia_auc", bootstrap(wins(*ours), seen.seed))
    oracle = seen.others.oracle()
    if oracle is not None:
        members, test = (
            outputs(oracle, x).probabilities for x in (task.train.x[task.forget], task.test.x)
        )
        theirs = attack(task, members, test, references, seen.seed)
        gap = bootstrap(wins(*ours) - wins(*theirs), seen.seed)
        found |= named("rmia_auc_less_oracle", gap)
    return found


def attack(
    task: Task, members: Tensor, test: Tensor, references: References, seed: int
) -> tuple[Tensor, Tensor]:
    """RMIA's scores of D_e's n training images and of the m test images like them.

    All are asked for the label that D_e has in D. A member's p(x) is the mean over the reference
    models that it is new to, which are half of them. A test image is new to all; for its mean as
    many are drawn, one of each pair, so that both kinds are estimated alike.

    Args:
        members: the attacked model's softmax (n, classes) on D_e's training images.
        test: its softmax (M, classes) on the test set.

    Returns:
        Scores (n,) and (m,) in [0, 1]; members should have the higher ones.
    """
    like, rest = task.test_forget, ~task.test_forget
    label = task.train.y[task.forget]
    rows = torch.arange(len(label))
    new = ~references.halves[:, task.forget]
    unseen = drawn_of_pairs(len(references.halves), int(like.sum()), seed)
    answers = task.test.y[rest]
    z = torch.arange(len(answers))
    population = likelihood_ratio(
        test[rest][z, answers], references.test[:, rest][:, z, answers].mean(0)
    )
    own = likelihood_ratio(members[rows, label], mean_where(new, references.forget[:, rows, label]))
    others = likelihood_ratio(
        test[like][:, task.target], mean_where(unseen, references.test[:, like][:, :, task.target])
    )
    return scores(own, population), scores(others, population)


def likelihood_ratio(p: Tensor, p_out: Tensor, a: float = A) -> Tensor:
    """p(x | theta) / p(x), with p(x) = ((1 + a) p_out + 1 - a) / 2 (RMIA's offline form).

    Args:
        p: (n,) the attacked model's probability of the label.
        p_out: (n,) its mean over reference models that x is new to.
    """
    return p / (((1 + a) * p_out + 1 - a) / 2)


def scores(ratios: Tensor, population: Tensor) -> Tensor:
    """Pr_z[ratio(x) / ratio(z) >= 1], RMIA's score with gamma = 1.

    Args:
        ratios: likelihood ratios (n,) of the images in question.
        population: likelihood ratios (z,) of images that no model was trained on.

    Returns:
        (n,) in [0, 1].

    Example:
        >>> scores(torch.tensor([0.5, 2.0]), torch.tensor([0.4, 0.6, 2.0, 3.0])).tolist()
        [0.25, 0.75]
    """
    below = torch.searchsorted(population.sort().values, ratios, right=True)
    return below.double() / len(population)


def mean_where(chosen: Tensor, values: Tensor) -> Tensor:
    """Means over the first axis of (k, n) values where (k, n) bool is true."""
    return (values * chosen).sum(0) / chosen.sum(0)


def drawn_of_pairs(models: int, number: int, seed: int) -> Tensor:
    """(models, number) bool: for each image one model of every pair."""
    first = torch.rand(models // 2, number, generator=seeded(seed, "rmia pairs")) < 0.5
    return torch.stack([first, ~first], 1).reshape(models, number)


def wins(members: Tensor, nonmembers: Tensor) -> Tensor:
    """(n, m): 1 where the member has the higher score, 1/2 where they are equal.

    Its mean is the AUC.
    """
    a, b = members[:, None], nonmembers
    return (a > b).double() + (a == b).double() / 2


def bootstrap(pairs: Tensor, seed: int) -> tuple[float, float, float]:
    """The mean of (n, m) values of pairs, and the 95 % interval of 1000 bootstrap draws.

    Members and non-members are drawn anew, each with replacement.
    """
    n, m = pairs.shape
    rng = seeded(seed, "bootstrap")
    members, nonmembers = (
        counts(torch.randint(size, (DRAWS, size), generator=rng), size) for size in (n, m)
    )
    means = ((members @ pairs) * nonmembers).sum(1) / (n * m)
    low, high = means.quantile(torch.tensor(INTERVAL, dtype=means.dtype)).tolist()
    return float(pairs.mean()), low, high


def counts(drawn: Tensor, size: int) -> Tensor:
    """How often each of ``size`` things is in each row of (draws, n) indices: (draws, size)."""
    found = torch.zeros(len(drawn), size, dtype=torch.float64)
    return found.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def true_positives(members: Tensor, nonmembers: Tensor) -> float:
    """The true positive rate at 1 % false positives at most."""
    false, true, _ = roc(-members, -nonmembers)
    return float(true[false <= LOW_FPR].max())


def named(name: str, values: tuple[float, float, float]) -> dict[str, float]:
    """A mean and its interval under their names."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
