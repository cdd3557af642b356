"""The measures, as plain functions: tensors in, floats out (Section 5.2 and what goes beyond)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_curve
from sklearn.svm import SVC
from torch import Tensor, nn

from unlearn.errors import UserError
from unlearn.models.probe import Probe, evaluating, head_of
from unlearn.stage import seeded

FITTED = 10_000  # images of each kind that the paper's attacker learns from
DEGREE = 128  # enough for an error below 1e-9 on entropies of up to a thousand classes
LOW_FPR = 0.01

Floats = NDArray[np.float64]


@dataclass
class Outputs:
    """What a model makes of images.

    Attributes:
        probabilities: its softmax, (N, classes) in float64: the entropies of sure answers differ
            only far behind the point.
        norms: L2 norms of the penultimate features, (N,).
    """

    probabilities: Tensor
    norms: Tensor


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor, batch_size: int = 500) -> Outputs:
    """One pass over uint8 images (N, C, H, W), in eval mode on the model's device; on the CPU.

    Raises:
        UserError: if the model neither ends in a linear layer nor has ``features``.
    """
    device, dtype = next(model.parameters()).device, torch.get_default_dtype()
    features: Any = getattr(model, "features", None)
    try:
        head = head_of(model, x[:1].to(device, dtype) / 255)
    except UserError:
        if features is None:
            raise
        head = None
    probabilities, norms = [], []
    with evaluating(model), Probe(model, head) as probe:
        for part in x.split(batch_size):
            images = part.to(device, dtype) / 255
            logits, embedding = (model(images), features(images)) if head is None else probe(images)
            probabilities.append(logits.double().softmax(-1).cpu())
            norms.append(torch.linalg.vector_norm(embedding, dim=1).cpu())
    return Outputs(torch.cat(probabilities), torch.cat(norms))


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


def feature_norms(norms: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over the images of (N,) norms: the watermark of Table 2."""
    return float(norms.mean()), float(norms.std()) if len(norms) > 1 else 0.0


def agreement(p: Tensor, q: Tensor) -> float:
    """Share of images with the same answer: (N, classes) twice -> [0, 1]."""
    return int((p.argmax(-1) == q.argmax(-1)).sum()) / len(p)


def js_divergence(p: Tensor, q: Tensor) -> float:
    """Mean over the images of the Jensen-Shannon divergence, in nats: 0 to log 2."""
    p, q = p.double(), q.double()
    m = (p + q) / 2
    divergences = [(torch.xlogy(a, a) - torch.xlogy(a, m)).sum(-1) for a in (p, q)]
    return float(((divergences[0] + divergences[1]) / 2).mean().clamp_min(0))


def tug_of_war(d_r: float, d_e: float, oracle_d_r: float, oracle_d_e: float) -> float:
    """How near two accuracies are to an oracle's at once, 1 if they are equal: the product of
    1 - |difference| (Zhao et al. 2024, What makes unlearning hard and what to do about it)."""
    return (1 - abs(d_r - oracle_d_r)) * (1 - abs(d_e - oracle_d_e))
