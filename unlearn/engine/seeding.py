"""Random generators of their own for every purpose, all from one seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seeded(seed: int, *names: str, device: torch.device | None = None) -> torch.Generator:
    """A random generator for a named purpose, independent of all other draws.

    Example:
        >>> a, b = seeded(0, "shots"), seeded(0, "shots")
        >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
        True
    """
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    generator = torch.Generator(device or "cpu")
    return generator.manual_seed(int.from_bytes(digest[:7], "big"))


@contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """Torch's own random state, on every device, Python's and NumPy's seeded within the block and
    restored after it."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


@contextmanager
def seeded_init(seed: int, *names: str) -> Iterator[None]:
    """Module initialisation from a seed; the caller's random state is restored after."""
    with seeded_globally(seeded(seed, *names).initial_seed()):
        yield
