"""A run's own record, readable without any service: metrics.jsonl (append-only) and summary.json."""

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from qinco_lit.atomic import write_atomically

_PACKAGES = ("qinco_lit", "torch", "pytorch-lightning", "numpy", "faiss-cpu", "hydra-core", "wandb")


class JsonLinesLogger(Logger):
    """Appends one JSON object per report to a file; a resumed run goes on in the same file.

    After a kill, steps that are trained again are reported again: the later line counts.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @property
    def name(self) -> str:
        """What the logger is called."""
        return "metrics"

    @property
    def version(self) -> str:
        """Empty: a run folder holds one record."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One line: step, unix time in seconds, metrics."""
        row = {"step": step, "time_s": round(time.time(), 3), **metrics}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The resolved config lies beside the file already."""


def environment() -> dict[str, Any]:
    """Versions, git revision and hardware of this process."""
    versions = {package: _version(package) for package in _PACKAGES}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": {"python": platform.python_version(), **versions},
        "git_revision": _git_revision(),
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cpu_count": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": gpus,
        },
    }


def write_summary(run_dir: Path, **values: Any) -> None:
    """Merge values into the run's summary.json, atomically."""
    summary = read_summary(run_dir) | values
    write_atomically(run_dir / "summary.json", json.dumps(summary, indent=2) + "\n")


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The run's summary.json, empty when there is none yet."""
    path = run_dir / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return summary


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_revision() -> str | None:
    """Revision of the checkout that this file lies in, with `+` when it has uncommitted changes."""
    here = Path(__file__).parent
    try:
        run = [
            subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return run[0].stdout.strip() + ("+" if run[1].stdout.strip() else "")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
