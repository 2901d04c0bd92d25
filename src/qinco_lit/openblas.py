"""Which kernels OpenBLAS multiplies matrices with, inside faiss and numpy.

faiss-cpu brings an OpenBLAS of 2021. It takes a processor that it does not know for a Pentium 4: k-means, residual
quantizers and assignments to lists then take some four times as long. When it is loaded, it asks a variable first.
"""

import os
from collections.abc import Iterable
from pathlib import Path

VARIABLE = "OPENBLAS_CORETYPE"
# OpenBLAS' names of kernels and what a processor must be able to do for them, best first
_KERNELS = (
    ("SkylakeX", {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"}),
    ("Haswell", {"avx2", "fma"}),
)


def choose_kernels() -> None:
    """Name the kernels that fit this processor, unless the user has; for libraries that are loaded from now on.

    Where the processor does not say what it can do (not Linux, not x86), OpenBLAS chooses.
    """
    name = kernels_for(_flags())
    if name is not None:
        os.environ.setdefault(VARIABLE, name)


def kernels_for(flags: Iterable[str]) -> str | None:
    """OpenBLAS' name of the best kernels for a processor with these flags, as Linux spells them; None if in doubt."""
    flags = set(flags)
    return next((name for name, needed in _KERNELS if needed <= flags), None)


def _flags() -> list[str]:
    try:
        with Path("/proc/cpuinfo").open() as lines:  # of the first core: some machines have hundreds
            return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    except OSError:
        return []
