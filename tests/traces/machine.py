"""What decides the last bits: processor, libraries, threads. And the environment in which a trace is taken."""

import ctypes
import os
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_PACKAGES = ("torch", "numpy", "faiss-cpu", "safetensors", "h5py")
_THREADS = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
# prefixes of variables that choose other kernels than the processor would
_KERNELS = ("ATEN_", "DNNL_", "FAISS_", "MKL_", "ONEDNN_", "OPENBLAS_")


def environment() -> dict[str, str]:
    """Of the process that takes traces: one thread per library, nothing of the user's that a command would read.

    Threads must be set before the libraries load, and tests of the same process may have changed them since.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QINCO_")}
    path = os.pathsep.join(each for each in (str(ROOT), os.environ.get("PYTHONPATH", "")) if each)
    return kept | _THREADS | {"PYTHONPATH": path, "MPLBACKEND": "Agg", "WANDB_MODE": "disabled"}


def made_on() -> dict[str, Any]:
    """Where a trace is taken: equal values promise equal bits."""
    import faiss
    import torch

    return {
        "processor": _of_processor("model name"),
        # clouds give different processors one name; MKL, oneDNN and OpenBLAS choose kernels by these
        "vector_units": " ".join(
            flag for flag in sorted(_of_processor("flags").split()) if flag.startswith(("avx", "amx", "fma", "sse4"))
        ),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "faiss_kernels": faiss_kernels(),
        "threads": {"torch": torch.get_num_threads(), "faiss": int(faiss.omp_get_max_threads())},
        "versions": {package: metadata.version(package) for package in _PACKAGES},
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(_KERNELS) and name not in _THREADS
        },
    }


def faiss_kernels() -> str | None:
    """What the OpenBLAS that faiss brings computes with; None if it brings none, or Linux does not say which."""
    import faiss  # noqa: F401

    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.is_file() else []
    paths = {line.split()[-1] for line in lines if "libopenblas" in line and "faiss" in line}
    if not paths:
        return None
    core_name = ctypes.CDLL(paths.pop()).openblas_get_corename
    core_name.restype = ctypes.c_char_p
    name: str = core_name().decode()
    return name


def _of_processor(name: str) -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.partition(":")[0].strip() == name:
            return line.partition(":")[2].strip()
    return ""
