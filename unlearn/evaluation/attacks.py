"""Membership inference: what a model's answers give away of its training data (Section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_curve
from sklearn.svm import SVC
from torch import Tensor

from unlearn.engine.seeding import seeded
from unlearn.engine.statistics import entropy
from unlearn.evaluation.base import MEASURES, Evidence

FITTED = 10_000  # images of each kind that the paper's attacker learns from
DEGREE = 128  # enough for an error below 1e-9 on entropies of up to a thousand classes
LOW_FPR = 0.01

Floats = NDArray[np.float64]


@MEASURES.register("asr")
def asr(seen: Evidence) -> dict[str, float]:
    """``asr_D_r``, ``asr_D_e``: success of the paper's membership attack (Table 2)."""
    h, test_h = entropy(seen.train.probabilities), entropy(seen.test.probabilities)
    d_e = seen.task.forget
    judged = {"D_r": h[~d_e], "D_e": h[d_e]}
    rates = attack_success_rate(h[~d_e], test_h, judged, seen.seed)
    return {f"asr_{name}": rate for name, rate in rates.items()}


@MEASURES.register("mia")
def mia(seen: Evidence) -> dict[str, float]:
    """``mia_*``: a membership attack that is judged on what it was not fitted to."""
    h, test_h = entropy(seen.train.probabilities), entropy(seen.test.probabilities)
    d_e, test_d_e = seen.task.forget, seen.task.test_forget
    judged = membership(h[~d_e], test_h[~test_d_e], h[d_e], test_h[test_d_e], seen.seed)
    return {f"mia_{name}_{k}": v for name, values in judged.items() for k, v in values.items()}


def attack_success_rate(
    members: Tensor, nonmembers: Tensor, judged: Mapping[str, Tensor], seed: int
) -> dict[str, float]:
    """ASR (Table 2): the share of each judged set that an attacker calls members.

    The attacker is a support vector machine (RBF, C 3, gamma 1) on the entropy alone, fitted on
    up to 10,000 members and as many non-members. As in the paper it is judged on what it was
    fitted to, so that its number is high for any model that is sure of its answers;
    ``membership`` is the fairer question.

    Args:
        members, nonmembers: entropies in nats, (n,), of training images of D_r and of test images.
        judged: entropies (m,) by name.
        seed: draws the images to fit to.

    Returns:
        A share in [0, 1] for each name.
    """
    number = min(FITTED, len(members), len(nonmembers))
    rng = seeded(seed, "attack")
    drawn = [h[torch.randperm(len(h), generator=rng)[:number]] for h in (members, nonmembers)]
    svm = SVC(C=3, gamma="auto").fit(
        torch.cat(drawn).double().numpy()[:, None], np.repeat([1, 0], number)
    )
    top = max(float(h.max()) for h in (*drawn, *judged.values())) or 1.0
    # A sum of Gaussians in one variable: a polynomial is its equal and does not ask all of the
    # thousands of support vectors about every image.
    decision = Chebyshev.interpolate(
        lambda h: svm.decision_function(h[:, None]), DEGREE, domain=[0, top]
    )
    return {name: float(np.mean(decision(h.double().numpy()) > 0)) for name, h in judged.items()}


def membership(
    members: Tensor, nonmembers: Tensor, forgotten: Tensor, unseen: Tensor, seed: int
) -> dict[str, dict[str, float]]:
    """How well membership can be told by an attacker who is judged on images new to him.

    He calls members what the model is sure of: entropy at most t (Salem et al. 2019, ML-Leaks),
    with the t of the best balanced accuracy on one half of D_r and of the test set. On the other
    half, and on D_e, of which he has seen nothing, he is judged by balanced accuracy with that t
    and, over all t, by AUC and by the true positives at 1 % false ones (Carlini et al. 2022,
    Membership Inference Attacks From First Principles). The kinds may differ in number. An AUC
    below 0.5 on D_e gives it away too: the model is less sure of it than of what it never saw.

    Args:
        members, nonmembers: entropies (n,), of D_r's training images, of test images unlike D_e;
            two of each or more.
        forgotten, unseen: entropies (m,), of D_e's training images, of test images like D_e.
        seed: draws the halves.

    Returns:
        For ``D_r`` and ``D_e`` ``balanced_accuracy``, ``auc``, ``tpr_at_1_fpr``, in [0, 1].
    """
    rng = seeded(seed, "membership")
    halves = [halved(h, rng) for h in (members, nonmembers)]
    false, true, thresholds = roc(halves[0][0], halves[1][0])
    best = int((true - false).argmax())
    t = -float(thresholds[best : best + 2].mean())  # halfway to the next entropy
    return {
        "D_r": judged_at(halves[0][1], halves[1][1], t),
        "D_e": judged_at(forgotten, unseen, t),
    }


def judged_at(members: Tensor, nonmembers: Tensor, t: float) -> dict[str, float]:
    """The threshold attack's measures on one set; ``t`` in nats is for the balanced accuracy."""
    false, true, _ = roc(members, nonmembers)
    right = float((members <= t).double().mean()), float((nonmembers > t).double().mean())
    return {
        "balanced_accuracy": sum(right) / 2,
        "auc": float(auc(false, true)),
        "tpr_at_1_fpr": float(true[false <= LOW_FPR].max()),
    }


def roc(members: Tensor, nonmembers: Tensor) -> tuple[Floats, Floats, Floats]:
    """False and true positive rates and their thresholds; the score is the negative entropy."""
    truth = np.repeat([1, 0], [len(members), len(nonmembers)])
    scores = -torch.cat([members, nonmembers]).double().numpy()
    false, true, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    return false, true, thresholds


def halved(h: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two random halves."""
    order = torch.randperm(len(h), generator=rng)
    return h[order[: len(h) // 2]], h[order[len(h) // 2 :]]
