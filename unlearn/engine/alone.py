"""One job is one process on one device, whatever a scheduler or a launcher started beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

# What SLURM, LSF, MPI, torchrun and Kubeflow say of the other processes of a job, and what sets
# Lightning's own options.
GUESSED = re.compile(
    r"(RANK|LOCAL_RANK|GROUP_RANK|NODE_RANK|ROLE_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_ADDR"
    r"|MASTER_PORT|(SLURM|JSM|LSB|OMPI|PMI|PMIX|PALS|MPI|TORCHELASTIC|KUBERNETES|PL_TRAINER)_.*)"
)


@contextmanager
def alone() -> Iterator[None]:
    """Take out of the environment what Lightning guesses other processes from, and put it back.

    Lightning reads it when it is imported and when it fits.
    """
    before = {name: value for name, value in os.environ.items() if GUESSED.fullmatch(name)}
    for name in before:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)
