"""Images at which f_o is matched besides the proxy's own: mixtures, and where the model departs."""

from __future__ import annotations

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
    x: Tensor,
    retain: Tensor,
    model: nn.Module,
    original: nn.Module,
    size: float,
    temperature: float,
) -> Tensor:
    """Images (B, C, H, W) in [0, 1], those of D~_r moved to where the model departs most from f_o.

    One step of steepest ascent on KL(f_o | model) of softened answers. To match f_o there bounds
    what relearning changes beside D~_e: adversarial belief matching (Micaelli and Storkey 2019)
    and data-free adversarial distillation (Fang et al. 2019), which train the generator for it.

    Args:
        retain: (B,) bool, D~_r; other rows stay.
        size: of the step, as root mean square over an image's values.
    """
    moved = x.detach().requires_grad_(True)
    with torch.enable_grad(), evaluating(model):
        ours, theirs = (
            (forward(f, moved) / temperature).log_softmax(-1) for f in (model, original)
        )
        gap = F.kl_div(ours, theirs, reduction="sum", log_target=True)
        (slope,) = torch.autograd.grad(gap, moved)
    length = slope.flatten(1).square().mean(1).sqrt().clamp_min(1e-30)
    step = size * slope / length[:, None, None, None]
    return torch.where(retain[:, None, None, None], (x + step).clamp(0, 1), x).detach()
