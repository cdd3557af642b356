"""Fresh samples at every step of relearning in place of stored ones, as data-free distillation has
them; of several candidates that on which the model departs most from f_o.

The choice is the gradient-free form of the competition term of ADI (Yin et al. 2020) and of DFQ
(Choi et al. 2020), which train the generator for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlearn.engine.precision import forward
from unlearn.engine.predict import evaluating
from unlearn.filtration import Filter, Proxy, split
from unlearn.filtration.mmd import mmd_to
from unlearn.problem import Problem
from unlearn.relearning.intentions import Given
from unlearn.relearning.lesson import Lesson, Portion, without


class Fresh:
    """Relearning data: for each stored sample another of the same condition.

    It is refined and split as the stored ones were, by the same threshold; what is not refined
    counts for nothing. The given images stay.

    Args:
        lesson: the stored data.
        sampler: generates and refines.
        given: what the intention may look at.
        problem: f_o and D_e.
        proxy: how the stored samples were split.
        model: the one that relearns.
        candidates: how many are made for each that is taken.
    """

    def __init__(
        self,
        lesson: Lesson,
        sampler: Filter,
        given: Given,
        problem: Problem,
        proxy: Proxy,
        model: nn.Module,
        candidates: int,
    ) -> None:
        self.lesson, self.sampler, self.given = lesson, sampler, given
        self.model, self.candidates = model, candidates
        device = problem.device
        self.bandwidths, self.threshold = proxy.bandwidths.to(device), proxy.threshold.to(device)
        with torch.no_grad(), sampler.probe:
            self.near = sampler.probe(problem.shots)[1].double()

    @torch.no_grad()
    def take(self, rows: Tensor) -> Portion:
        """Data for ``rows`` (b,) of the lesson."""
        old, conditions = self.lesson.take(rows), self.lesson.conditions[rows]
        made = [self._sample(conditions.clamp_min(0)) for _ in range(self.candidates)]
        new = made[0] if len(made) == 1 else self._hardest(made)
        if self.lesson.imposed:
            answers = self.lesson.intention.relabel(new.images, self.given)
            assert answers is not None
            new.labels = torch.where(new.forget[:, None], answers.to(new.labels.dtype), new.labels)
        stays = conditions < 0
        return Portion(
            torch.where(stays[:, None, None, None], old.images, new.images),
            torch.where(stays[:, None], old.labels, new.labels),
            torch.where(stays, old.retain, new.retain),
            torch.where(stays, old.forget, new.forget),
        )

    def _sample(self, conditions: Tensor) -> Portion:
        """Samples with f_o's answers as labels."""
        sampler, generator = self.sampler, self.sampler.generator
        z = torch.randn(
            len(conditions), generator.z, device=conditions.device, generator=sampler.rng
        )
        with sampler.probe:
            images, p, embedding, refined = sampler.predict_step((z, conditions))
        distances = mmd_to(embedding.double(), self.near, self.bandwidths)
        like, dropped = split(
            sampler.cfg,
            distances,
            p,
            conditions == generator.conditions - 1,
            self.threshold,
            [self.given.target],
        )
        if sampler.cfg.whole_class:
            p = torch.where(like[:, None], p, without(p, [self.given.target]))
        x = images.to(torch.get_default_dtype()) / 255
        return Portion(x, p, refined & ~like & ~dropped, refined & like)

    def _hardest(self, made: list[Portion]) -> Portion:
        """Of the candidates for each place in D~_r, that of the largest KL(f_o | model).

        The first candidate decides whether a place is in D~_r, so that the parts keep their sizes.
        """
        with evaluating(self.model):
            gaps = torch.stack([kl(m.labels, forward(self.model, m.images)) for m in made])
        retain = torch.stack([m.retain for m in made])
        chosen = gaps.masked_fill(~retain, -1.0).argmax(0)
        chosen = torch.where(retain[0], chosen, 0)
        places = torch.arange(len(chosen), device=chosen.device)

        def pick(name: str) -> Tensor:
            return torch.stack([getattr(m, name) for m in made])[chosen, places]

        return Portion(pick("images"), pick("labels"), pick("retain"), pick("forget"))


def kl(p: Tensor, logits: Tensor) -> Tensor:
    """KL(p | softmax(logits)) of every row in nats: (b, classes) twice -> (b,)."""
    gap: Tensor = -torch.special.entr(p).sum(-1) - (p * logits.log_softmax(-1)).sum(-1)
    return gap
