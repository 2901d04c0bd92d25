"""Offline W&B runs, read back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def read_runs(run_dir: Path) -> list[dict[str, Any]]:
    """What W&B's own reader finds in every offline run of a folder."""
    found = []
    for file in _files(run_dir):
        summary = json.loads(_inspect("--summary", "--json", str(file)))
        found.append({"id": file.stem.removeprefix("run-"), **summary})
    return found


def read_records(run_dir: Path) -> list[dict[str, Any]]:
    """Every record of the only run of a folder."""
    (file,) = _files(run_dir)
    return [json.loads(line) for line in _inspect("--json", str(file)).splitlines() if line]


def _files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*/*.wandb"))


def _inspect(*arguments: str) -> str:
    wandb = Path(sys.executable).with_name("wandb")
    return subprocess.run([wandb, "leet", "inspect", *arguments], capture_output=True, text=True, check=True).stdout
