"""Oracle (Section 3): what retraining from scratch on D_r and I_e gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.baselines.base import BASELINES, Baseline, FullAccess, Outcome
from unlearn.data import Images
from unlearn.engine.augment import Augment
from unlearn.engine.fitting import gpu_layout
from unlearn.relearning import Given, Intention
from unlearn.scenarios import Task
from unlearn.training import Trainer, TrainingConfig


class OracleTraining(Trainer):
    """Cross entropy on D_r and the intention's loss on the relabelled D_e, as one mean.

    Args:
        labels: soft labels (N, classes) of the intention; only the rows of ``given`` count.
        given: (N,) bool, the relabelled part of D_e.
    """

    stage, settings = "oracle", "training"

    def __init__(
        self,
        cfg: TrainingConfig,
        model: nn.Module,
        data: Images,
        augment: Augment,
        intention: Intention,
        labels: Tensor,
        given: Tensor,
    ) -> None:
        super().__init__(cfg, model, data, augment)
        self.intention, self.labels, self.given = intention, labels, given
        self.imposed = bool(given.any())

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, self.data.y[rows], reduction="none")
        if self.imposed:
            imposed = self.intention.losses(logits, self.labels[rows])
            losses = torch.where(self.given[rows], imposed, losses)
        return losses.mean()


@BASELINES.register("oracle")
@dataclass
class Oracle(Baseline):
    """A fresh network trained like the original on D_r and D_e as the intention relabels it.

    The part of D_e that is not given stays in D_r, with the label it had (Appendix D.1).
    """

    uses: ClassVar[frozenset[str]] = frozenset({"intention", "shot", "seed"})
    stages: ClassVar[tuple[str, ...]] = ("oracle",)

    def passes(self, training: TrainingConfig, task: Task) -> float:
        return training.epochs * len(task.train)

    def unlearn(self, access: FullAccess) -> Outcome:
        task, device = access.task, access.device
        intention = access.intention.for_oracle()
        given = Given(access.original, task.target, task.correct, access.seed)
        erased = task.train.x[access.given].to(device).to(torch.get_default_dtype()) / 255
        soft = intention.relabel(erased, given)
        data, marked = task.train, access.given
        if soft is None:
            data, marked = data[~marked], marked[~marked]
            labels = torch.zeros(len(data), 1)
        else:
            labels = torch.zeros(len(data), soft.shape[1]).to(soft.dtype)
            labels[marked] = soft.cpu()
        model = gpu_layout(access.fresh().to(device)).train()
        module = OracleTraining(
            replace(access.training, seed=access.seed),
            model,
            Images(data.x.to(device), data.y.to(device)),
            access.augment,
            intention,
            labels.to(device),
            marked.to(device),
        )
        history = access.fit.run(module, module.batches, device)
        return Outcome(model.eval(), history)
