"""Which folders below the given ones hold a run, an evaluation or a search."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TRAINING, EVALUATION, SEARCH = "summary.json", "metrics.json", "search.json"
# Written while a job is under way; alone, they are the remains of one.
_UNFINISHED = {"metrics.jsonl": (TRAINING, "training"), "points.jsonl": (SEARCH, "search")}
_NEVER_RUNS = {"node_modules", "__pycache__"}
# Of a run's folder only: users may call their own folders so.
_PARTS_OF_A_RUN = {"codec", "checkpoints", "wandb"}
_MARKERS = {TRAINING, EVALUATION, SEARCH, *_UNFINISHED}


@dataclass
class Found:
    """Folders by the file that marks them, each once, in order; and what must be said of others."""

    folders: dict[str, list[Path]] = field(default_factory=lambda: {TRAINING: [], EVALUATION: [], SEARCH: []})
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.folders.values()))


def find_folders(paths: Sequence[Path]) -> Found:
    """Search folders recursively for runs, those that are linked included, each once.

    Raises:
        FileNotFoundError, ValueError: a path does not exist or is a file.
    """
    found = Found()
    seen: set[str] = set()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give folders of runs, sweeps, evaluations or searches")
        if not path.is_dir():
            raise ValueError(f"{path} is a file: give the folder it lies in")
        for folder, files in _walk(path, seen, found.warnings):
            _classify(found, folder, files)
    return found


def _walk(path: Path, seen: set[str], warnings: list[str]) -> Iterator[tuple[Path, set[str]]]:
    def refused(error: OSError) -> None:
        warnings.append(f"left out {error.filename}: {error.strerror}")

    for folder, subfolders, files in os.walk(path, onerror=refused, followlinks=True):
        identity = os.path.realpath(folder)
        if identity in seen:  # linked twice, or to what it lies in
            subfolders.clear()
            continue
        seen.add(identity)
        left_out = _NEVER_RUNS if _MARKERS.isdisjoint(files) else _NEVER_RUNS | _PARTS_OF_A_RUN
        subfolders[:] = sorted(name for name in subfolders if name not in left_out and not name.startswith("."))
        yield Path(folder), set(files)


def _classify(found: Found, folder: Path, files: set[str]) -> None:
    for marker, folders in found.folders.items():
        if marker in files:
            folders.append(folder)
    for remains, (marker, job) in _UNFINISHED.items():
        if remains in files and marker not in files:
            found.warnings.append(f"left out {folder}: {job} without {marker}, it has not got that far")
