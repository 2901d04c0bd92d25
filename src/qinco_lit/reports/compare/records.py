"""Which folders hold a training, an evaluation or a search, and what lies in one of them."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

TRAINING, EVALUATION, SEARCH = "summary.json", "metrics.json", "search.json"
# Written while a job is under way; alone, they are the remains of one.
_UNFINISHED = {"metrics.jsonl": (TRAINING, "training"), "points.jsonl": (SEARCH, "search")}
_NEVER_RUNS = {"node_modules", "__pycache__"}
# Of a run's folder only: users may call their own folders so.
_PARTS_OF_A_RUN = {"codec", "checkpoints", "wandb"}
_MARKERS = {TRAINING, EVALUATION, SEARCH, *_UNFINISHED}
# Versions of the files' forms that are read here; a summary.json carries none yet.
KNOWN_VERSIONS: dict[str, tuple[int | None, ...]] = {TRAINING: (None, 1), EVALUATION: (1, 2, 3, 4), SEARCH: (1, 2)}
# A longer silence between two reports is a run that was stopped and resumed, not training time.
_SILENCE_S, _SILENCE_TIMES_MEDIAN = 60.0, 20.0
_MAX_DEPTH = 50
_GROUPS = ("data", "model", "recipe", "coarse")


# --- folders ----------------------------------------------------------------------------------------------------------


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


# --- their content ----------------------------------------------------------------------------------------------------


class UnreadableError(ValueError):
    """A folder that cannot be compared, with the reason in a few words."""


@dataclass(frozen=True)
class Curve:
    """Validation errors in order of time: epochs done, seconds of training, MSE (raw space, sum over dimensions)."""

    epochs: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    mse: tuple[float, ...] = ()


@dataclass(frozen=True)
class Training:
    """A run folder: `options` flat by dotted name, `typed` those of the command line, `choices` by config group."""

    folder: Path
    summary: dict[str, Any]
    options: dict[str, Any]
    typed: frozenset[str]
    choices: dict[str, str]
    curve: Curve
    mse_per_step: tuple[float, ...]
    """Validation MSE after each step, of the best epoch."""


@dataclass(frozen=True)
class Recorded:
    """An evaluation or a search: its folder, and what its metrics.json or search.json holds."""

    folder: Path
    record: dict[str, Any]


def read_training(folder: Path, warn: Callable[[str], None]) -> Training:
    """Read a run folder. Raises UnreadableError; `warn` is told of what is left out of a folder that is read."""
    summary = _read_json(folder, TRAINING)
    config = _read_json(folder, "config.json")
    overrides = [str(override).lstrip("+~").partition("=") for override in summary.get("overrides", [])]
    # runs from before config.json held the choices have at least those that were typed
    choices = config.pop("choices", None) or {name: value for name, _, value in overrides}
    curve, mse_per_step = _curve(_reports(folder / "metrics.jsonl", warn))
    return Training(
        folder=folder,
        summary=summary,
        options=flat(config),
        typed=frozenset(name for name, _, _ in overrides),
        choices={name: str(choices[name]) for name in _GROUPS if choices.get(name) is not None},
        curve=curve,
        mse_per_step=mse_per_step,
    )


def read_recorded(folder: Path, name: str) -> Recorded:
    """Read the folder of an evaluation (`name` EVALUATION) or of a search (SEARCH). Raises UnreadableError."""
    return Recorded(folder, _read_json(folder, name))


def finite(value: Any) -> bool:
    """Tell whether a result is a number that can be sorted and plotted."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # hundreds of digits
        return False


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by dotted name; an empty group is None, as an absent one."""
    options: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            options.update(flat(value, f"{prefix}{name}."))
        else:
            options[prefix + name] = None if value == {} else value
    return options


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UnreadableError(f"{name} is no file")
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UnreadableError(f"it has no {name}") from None
    except RecursionError:
        raise UnreadableError(f"{name} is nested too deeply") from None
    except OSError as error:
        raise UnreadableError(f"{name}: {error.strerror}") from error
    except ValueError as error:  # of JSON, of UTF-8
        reason = "is empty" if not path.stat().st_size else f"is no JSON ({error})"
        raise UnreadableError(f"{name} {reason}") from error
    if not isinstance(record, dict):
        raise UnreadableError(f"{name} holds no mapping")
    if _is_deeper(record, _MAX_DEPTH):  # what reads and writes it recurses
        raise UnreadableError(f"{name} is nested too deeply")
    version, known = record.get("schema_version"), KNOWN_VERSIONS.get(name)
    if known is not None and version not in known:
        listed = ", ".join("none" if each is None else str(each) for each in known)
        raise UnreadableError(f"{name} has the unknown schema_version {version} (known: {listed})")
    return record


def _is_deeper(value: Any, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _is_deeper(each, levels - 1) for each in inside if isinstance(each, dict | list))


def _reports(path: Path, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the lines that are whole; that the last is not is no fault: it may have been cut off by a kill."""
    if not path.exists():
        return []
    try:
        if not path.is_file():
            raise OSError(0, "no file")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        warn(f"{path.parent}: left out {path.name}: {error.strerror}")
        return []
    reports, broken = [], []
    for place, line in enumerate(lines):
        try:
            report = json.loads(line)
        except (ValueError, RecursionError):
            report = None
        if isinstance(report, dict):
            reports.append(report)
        elif line.strip() and place < len(lines) - 1:
            broken.append(place)
    if broken:
        warn(f"{path.parent}: {len(broken)} lines of metrics.jsonl are no JSON and left out")
    return reports


def _curve(reports: list[dict[str, Any]]) -> tuple[Curve, tuple[float, ...]]:
    """Return the learning curve and the errors per step of its best epoch; of a step trained twice the later counts."""
    times = [time if math.isfinite(time := float(report.get("time_s", 0.0))) else 0.0 for report in reports]
    waits = [max(0.0, after - before) for before, after in pairwise(times)]
    usual = median(waits) if waits else 0.0
    limit = max(_SILENCE_S, _SILENCE_TIMES_MEDIAN * usual)
    seconds = 0.0
    points: dict[Any, tuple[float, float, float, dict[str, Any]]] = {}
    for wait, report in zip([0.0, *waits], reports, strict=False):  # no report: no wait either
        seconds += wait if wait <= limit else usual
        mse: Any = report.get("val/mse")
        epoch: Any = report.get("epoch")
        if finite(mse):
            number = float(epoch) if finite(epoch) else len(points)
            points[report.get("step")] = (number + 1, seconds, float(mse), report)
    rows = sorted(points.values(), key=lambda row: row[0])
    curve = Curve(tuple(row[0] for row in rows), tuple(row[1] for row in rows), tuple(row[2] for row in rows))
    best = min(rows, key=lambda row: row[2])[3] if rows else {}
    return curve, tuple(_steps(best))


def _steps(report: Mapping[str, Any]) -> list[float]:
    errors: list[float] = []
    while (name := f"val/mse_step_{len(errors) + 1}") in report:
        errors.append(float(report[name]))
    return errors
