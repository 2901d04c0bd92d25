"""Which kernels OpenBLAS multiplies matrices with, inside faiss.

faiss-cpu brings an OpenBLAS of 2021. It takes a processor that it does not know for a Pentium 4, whose products take
some four times as long (benchmarks/RESULTS.md, "The demo's phases"). When it is loaded, it asks a variable first.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "OPENBLAS_CORETYPE"
# OpenBLAS' names of kernels and what a processor must be able to do for them, best first
_KERNELS = (
    ("SkylakeX", {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"}),
    ("Haswell", {"avx2", "fma"}),
)


def choose_kernels() -> None:
    """Have faiss, when it is imported, loaded with the kernels that fit this processor, unless the user named some.

    The variable is set for that moment only: a process that is started from here may run on another machine, where
    these kernels would be illegal instructions. Where the processor does not say what it can do (not Linux, not x86),
    OpenBLAS chooses.
    """
    if "faiss" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def kernels_for(flags: Iterable[str]) -> str | None:
    """OpenBLAS' name of the best kernels for a processor with these flags, as Linux spells them; None if in doubt."""
    flags = set(flags)
    return next((name for name, needed in _KERNELS if needed <= flags), None)


class _Finder(MetaPathFinder):
    """Finds faiss as it is found without this, and names the kernels while it loads its libraries.

    It stays until faiss is imported: `importlib.util.find_spec` only asks where faiss is.
    """

    def find_spec(
        self,
        fullname: str,
        path: Any,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != "faiss":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((each for each in found if each is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_with_kernels(module: ModuleType) -> None:
                with _named(kernels_for(processor_flags())):
                    execute(module)
                sys.meta_path.remove(self)

            spec.loader.exec_module = execute_with_kernels  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _named(kernels: str | None) -> Iterator[None]:
    if kernels is None or VARIABLE in os.environ:
        yield
        return
    os.environ[VARIABLE] = kernels
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)


def processor_flags() -> list[str]:
    """What the processor can do, as Linux spells it; empty where it does not say."""
    try:
        with Path("/proc/cpuinfo").open() as lines:  # of the first core: some machines have hundreds
            return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    except OSError:
        return []
