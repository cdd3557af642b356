"""Images at which f_o is matched besides the proxy's own: mixtures, and where the model departs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlearn.engine.precision import forward
from unlearn.engine.predict import evaluating


def mixed(x: Tensor, retain: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Images (B, C, H, W), so large a share of D~_r's mixed with others of D~_r.

    Mixup (Zhang et al. 2018) without its labels: f_o answers the mixture itself, as in the function
    matching of Beyer et al. (2022). A row of D~_e, and a row whose partner is one, stays.

    Args:
        retain: (B,) bool, D~_r.
        share: how many of them are mixed, in [0, 1]; each keeps at least half of itself.
    """

    def uniform() -> Tensor:
        return torch.rand(len(x), device=x.device, generator=rng)

    partner = torch.randperm(len(x), device=x.device, generator=rng)
    mixes = retain & retain[partner] & (uniform() < share)
    own = torch.where(mixes, 1 - uniform() / 2, 1.0).to(x.dtype)[:, None, None, None]
    return x.lerp(x[partner], 1 - own)


def adversarial(
    x: Tensor, sizes: Tensor, model: nn.Module, gap: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Images (B, C, H, W) in [0, 1], moved to where the model does worst.

    One step of steepest ascent on a gap, of a length for each image. To match f_o where the model
    departs from it bounds what relearning changes beside D~_e: adversarial belief matching
    (Micaelli and Storkey 2019) and data-free adversarial distillation (Fang et al. 2019), which
    train the generator for it. To learn D~_e where the intention holds least is adversarial
    training (Madry et al. 2018) in one step.

    Args:
        sizes: (B,) root mean square of an image's step; 0 leaves it where it is.
        gap: of moved images and the model's logits on them, (B,); what it is of one image may
            depend on that image alone.
    """
    moved = x.detach().requires_grad_(True)
    with torch.enable_grad(), evaluating(model):
        (slope,) = torch.autograd.grad(gap(moved, forward(model, moved)).sum(), moved)
    length = slope.flatten(1).square().mean(1).sqrt().clamp_min(1e-30)
    own, length = (v[:, None, None, None] for v in (sizes, length))
    return torch.where(own > 0, (x + own * slope / length).clamp(0, 1), x).detach()


def departure(logits: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """KL(f_o | model) of softened answers, from logits (B, classes) of both: (B,)."""
    q, p = ((v / temperature).log_softmax(-1) for v in (logits, theirs))
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
