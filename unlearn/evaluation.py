"""What is measured of a model on a task: accuracy, privacy, the watermark (Sections 5.1, 5.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from unlearn.filtration.filtrate import entropy
from unlearn.measures import Outputs, attack_success_rate, feature_norms, membership, outputs
from unlearn.scenarios import Task


def share(hits: Tensor) -> float:
    """How many of (N,) are true, in [0, 1]."""
    return int(hits.sum()) / len(hits)


def accuracies(task: Task, predicted: Tensor) -> dict[str, float]:
    """Of predicted classes (M,) of the test set, shares in [0, 1]: ``D_r``, right on the rest of
    the test set; ``D_e``, test images like D_e that are predicted as the label that counts (7 for
    crossed sevens in every scenario)."""
    right = predicted == task.test.y
    return {
        "D_r": share(right[~task.test_forget]),
        "D_e": share(predicted[task.test_forget] == task.counted),
    }


@dataclass
class Evaluation:
    """A model's measures, shares in [0, 1], and its answers on the test set."""

    metrics: dict[str, float]
    test: Outputs

    @property
    def predicted(self) -> Tensor:
        """Predicted classes (M,) of the test set."""
        return self.test.probabilities.argmax(-1)


def evaluate(model: nn.Module, task: Task, seed: int) -> Evaluation:
    """Everything that ``metrics.json`` says of a model.

    ``D_r``, ``D_e``: test accuracies; ``train_``: the same on D. ``asr_``: success of the paper's
    membership attack; ``mia_``: of one that is judged on what it was not fitted to. ``norm_``: L2
    norm of the penultimate features of D_r and D_e, its mean and, with ``_std``, its spread over
    the images.
    """
    train, test = outputs(model, task.train.x), outputs(model, task.test.x)
    d_e, test_d_e = task.forget, task.test_forget
    metrics = accuracies(task, test.probabilities.argmax(-1))
    predicted = train.probabilities.argmax(-1)
    metrics["train_D_r"] = share((predicted == task.train.y)[~d_e])
    metrics["train_D_e"] = share(predicted[d_e] == task.counted)
    h, test_h = entropy(train.probabilities), entropy(test.probabilities)
    metrics |= {
        f"asr_{name}": rate
        for name, rate in attack_success_rate(
            h[~d_e], test_h, {"D_r": h[~d_e], "D_e": h[d_e]}, seed
        ).items()
    }
    for name, judged in membership(
        h[~d_e], test_h[~test_d_e], h[d_e], test_h[test_d_e], seed
    ).items():
        metrics |= {f"mia_{name}_{k}": v for k, v in judged.items()}
    for name, rows in (("D_r", ~d_e), ("D_e", d_e)):
        metrics[f"norm_{name}"], metrics[f"norm_{name}_std"] = feature_norms(train.norms[rows])
    return Evaluation(metrics, test)
