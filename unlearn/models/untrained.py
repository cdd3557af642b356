"""A network as it would be before training: every parameter drawn anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from unlearn.engine.seeding import seeded_init
from unlearn.models.adapt import copied

# Power iterations after which a spectral norm's vectors fit new weights (torch starts with 15).
ITERATIONS = 30


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a trained parameter; of equal numbers, a tenth of them."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, parameter: Tensor) -> Spread:
        """Over all its numbers."""
        mean, deviation = float(parameter.mean()), float(parameter.std(correction=0))
        if deviation < 1e-6 * abs(mean) or deviation == 0:
            deviation = 0.1 * abs(mean) or 0.02
        return cls(mean, deviation)


def untrained(model: nn.Module, seed: int) -> nn.Module:
    """A copy with every parameter drawn anew, in eval mode; tied ones stay tied.

    Modules draw by their own ``reset_parameters``. What that leaves, as behind a weight or spectral
    norm or in a stranger's layer, or puts back as it was trained, is drawn from a normal
    distribution of its own mean and standard deviation. A parameter that a reset makes constant, as
    a norm's ones, may be as it was.
    """
    fresh = copied(model)
    fresh.eval()
    with seeded_init(seed, "untrained"), torch.no_grad():
        trained = {id(p): _numbers(p).clone() for p in fresh.parameters() if _is_drawn(p)}
        for module in fresh.modules():
            own = [p for p in module.parameters(recurse=False) if id(p) in trained]
            for parameter in own:
                parameter.fill_(torch.nan)  # shows what is not drawn
            _reset(module)
            for parameter in own:
                _draw(_numbers(parameter), trained[id(parameter)])
        for module in fresh.modules():
            _iterate(module)
    return fresh


def _is_drawn(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


def _numbers(parameter: Tensor) -> Tensor:
    """A parameter's own memory as real numbers."""
    return torch.view_as_real(parameter) if parameter.is_complex() else parameter


def _reset(module: nn.Module) -> None:
    """A module's own fresh start, if it has one."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        try:
            reset()
        except Exception:  # a stranger's may want arguments, or numbers where there are none yet
            return


def _draw(numbers: Tensor, trained: Tensor) -> None:
    """Draw the numbers of a parameter that are missing; all of them, if they are as trained."""
    spread, missing = Spread.of(trained), numbers.isnan()
    if torch.equal(numbers, trained) and not bool((trained == trained.flatten()[:1]).all()):
        missing = torch.ones_like(missing)
    if bool(missing.any()):
        drawn = torch.empty_like(numbers).normal_(spread.mean, spread.deviation)
        numbers.copy_(torch.where(missing, drawn, numbers))


def _iterate(module: nn.Module) -> None:
    """Let spectral norms find the largest singular vectors of a module's new weights."""
    if parametrize.is_parametrized(module):
        for name, chain in module.parametrizations.items():  # type: ignore[operator, union-attr]
            chain.train()
            for _ in range(ITERATIONS):
                getattr(module, name)
            chain.eval()
    # Found as torch's own remove_spectral_norm finds them.
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            module.train()
            for _ in range(ITERATIONS):
                hook(module, ())
            module.eval()
