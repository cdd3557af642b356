"""Linear probe: whether a model's features still hold what its answers hide."""

from __future__ import annotations

import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from unlearn.evaluation.accuracy import share
from unlearn.evaluation.base import ON_REQUEST, Evidence
from unlearn.evaluation.outputs import features
from unlearn.scenarios import Task

RIDGE = 1.0


@ON_REQUEST.register("linear_probe")
def linear_probe(seen: Evidence) -> dict[str, float]:
    """``probe_D_r``, ``probe_D_e``: test accuracies of a new last layer on the model's features,
    and the same less the oracle's (``probe_*_less_oracle``).

    The new layer learns all of D with D's labels. On D_e it counts who is called by the label to
    forget.
    """
    task, found = seen.task, {}
    ours = probed(task, features(seen.model, task.train.x), features(seen.model, task.test.x))
    oracle = seen.others.oracle()
    theirs = None
    if oracle is not None:
        theirs = probed(task, features(oracle, task.train.x), features(oracle, task.test.x))
    for name, value in ours.items():
        found[f"probe_{name}"] = value
        if theirs is not None:
            found[f"probe_{name}_less_oracle"] = value - theirs[name]
    return found


def probed(task: Task, train: Tensor, test: Tensor) -> dict[str, float]:
    """Accuracies on ``D_r`` and ``D_e`` of the test set, of a linear layer fitted to features.

    Least squares on one-hot labels, of standardised features, with ridge 1.

    Args:
        train, test: features (N, d) of D and (M, d) of the test set.
    """
    head = make_pipeline(StandardScaler(), RidgeClassifier(alpha=RIDGE))
    head.fit(train.double().numpy(), task.train.y.numpy())
    predicted = torch.from_numpy(head.predict(test.double().numpy()))
    return {
        "D_r": share((predicted == task.test.y)[~task.test_forget]),
        "D_e": share(predicted[task.test_forget] == task.target),
    }
