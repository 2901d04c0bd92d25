"""What is compared: everything found, evaluations joined to the trainings they measured, each row named."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path, PurePath
from typing import TypeVar

from qinco_lit.reports.compare.records import (
    EVALUATION,
    SEARCH,
    TRAINING,
    Found,
    Recorded,
    Training,
    UnreadableError,
    read_recorded,
    read_training,
)
from qinco_lit.reports.compare.rows import Run, evaluation_rows, search_rows, training_row

# Of a path that is no longer there, at least so many last parts must be found: RUN/codec.
_LEAST_PARTS = 2
# `created` is in whole seconds.
_CLOCK_S = 1.0
# What a record of another form leads to: a number too large, a list where there should be a mapping, ...
_OTHER_FORM = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError, OSError)

Warn = Callable[[str], None]
_Made = TypeVar("_Made")
# A fact of a row: what it is, and how the name of its data set says so; None where it is unknown.
_Fact = tuple[object, str] | None


def read_runs(found: Found, warn: Warn) -> list[Run]:
    """Read all folders into rows; `warn` is told, a line each, of what cannot be read and why."""
    trainings: dict[Path, Training] = {}
    for folder in found.folders[TRAINING]:
        training = _attempt(folder, partial(read_training, folder, warn), warn)
        if training is not None:
            trainings[folder.resolve()] = training
    runs, measured = _evaluated(found.folders[EVALUATION], trainings, warn)
    runs += [training_row(training) for training in trainings.values() if training.folder not in measured]
    for folder in found.folders[SEARCH]:
        search = _attempt(folder, partial(read_recorded, folder, SEARCH), warn)
        if search is not None:
            runs += _attempt(folder, partial(search_rows, search), warn) or []
    return _named(_without_repeats(told_apart(runs)))


def _evaluated(
    folders: Iterable[Path], trainings: Mapping[Path, Training], warn: Warn
) -> tuple[list[Run], Counter[Path]]:
    """Return the rows of evaluations, and how many there are of each training."""
    made: list[tuple[Training | None, list[Run]]] = []
    for folder in folders:
        evaluation = _attempt(folder, partial(read_recorded, folder, EVALUATION), warn)
        if evaluation is None:
            continue
        training = _training_of(evaluation, trainings, warn)
        rows = _attempt(folder, partial(evaluation_rows, evaluation, training), warn)
        if rows is not None:
            made.append((training, rows))
    measured = Counter(training.folder for training, _ in made if training is not None)
    runs: list[Run] = []
    for training, rows in made:
        if training is not None and measured[training.folder] == 1 and training.folder.resolve() in trainings:
            rows[0] = replace(rows[0], folder=training.folder)  # measured once, it goes by its own name
        runs += rows
    return runs, measured


def _attempt(folder: Path, make: Callable[[], _Made], warn: Warn) -> _Made | None:
    try:
        return make()
    except UnreadableError as reason:
        warn(f"left out {folder}: {reason}")
    except _OTHER_FORM as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        warn(f"left out {folder}: its record has another form than this version writes ({what})")
    return None


def _training_of(evaluation: Recorded, trainings: Mapping[Path, Training], warn: Warn) -> Training | None:
    folder = _attempt(evaluation.folder, partial(training_folder, evaluation, warn), warn)
    if folder is None:
        return None

    def unheard(_: str) -> None:
        """It lies outside of what was asked for."""

    return trainings.get(folder.resolve()) or _attempt(folder, partial(read_training, folder, unheard), unheard)


def _without_repeats(runs: Iterable[Run]) -> list[Run]:
    """Leave out baselines that several evaluations took from the same cache."""
    kept, seen = [], set()
    for run in runs:
        if run.kind == "baseline":
            same = (run.name, run.data, run.options.get("evaluate.num_database"), f"{run.results.get('mse', 0):.6g}")
            if same in seen:
                continue
            seen.add(same)
        kept.append(run)
    return kept


def _named(runs: Sequence[Run]) -> list[Run]:
    """Name rows by their folders, without what all of these share at the front and at the end."""
    folders = {run.folder.resolve() for run in runs if run.kind != "baseline"}
    if not folders:
        return list(runs)
    base = Path(os.path.commonpath(folders))
    here = Path.cwd()
    if base in folders:
        base = base.parent
    if base in here.parents:  # so little in common that it says less than the way from here
        names = {folder: folder.relative_to(here) if here in folder.parents else folder for folder in folders}
    else:
        names = {folder: folder.relative_to(base) for folder in folders}
    if len({name.name for name in names.values()}) == 1 and all(len(name.parts) > 1 for name in names.values()):
        names = {folder: name.parent for folder, name in names.items()}
    return [
        run if run.kind == "baseline" else replace(run, name=names[run.folder.resolve()].as_posix()) for run in runs
    ]


# --- which run folder the codec of an evaluation came from -----------------------------------------------------------


def training_folder(evaluation: Recorded, warn: Callable[[str], None]) -> Path | None:
    """Return the run folder whose codec was measured; None when it is not there, or the codec is no run's.

    `codec.path`, where it is relative, is looked for relative to the folders above the evaluation, then as it stands:
    outputs may have been moved or copied as a whole. A codec of other options or other weights than the evaluation
    recorded is not taken; `warn` is told when the weights alone differ, or may.
    """
    facts = evaluation.record.get("codec")
    if not isinstance(facts, dict) or not isinstance(facts.get("path"), str):
        return None
    went_on = None
    for codec in _places(PurePath(facts["path"]), evaluation.folder):
        folder = codec.parent
        config = _config(codec) if (folder / TRAINING).is_file() else None
        if config is None or not _same_model(config, facts):
            continue
        if facts.get("weights_sha256") is None:
            if _is_newer(codec / "weights.safetensors", evaluation):
                warn(f"{evaluation.folder}: {codec} is newer than this evaluation of it: the training may have gone on")
            return folder
        if config.get("weights_sha256") == facts["weights_sha256"]:
            return folder
        went_on = went_on or folder
    if went_on is not None:
        warn(f"{evaluation.folder} stands alone: {went_on} has another codec by now, the training went on since")
    return None


def _places(path: PurePath, evaluation: Path) -> Iterator[Path]:
    if path.is_absolute():
        yield Path(path)
    parts = path.parts[1:] if path.is_absolute() else path.parts
    for first in range(len(parts) - _LEAST_PARTS + 1):
        for folder in evaluation.resolve().parents:
            yield folder.joinpath(*parts[first:])
    yield evaluation.parent / path.name  # inside of its run folder, however that is called now
    # at last: from where `compare` runs it may lead to another training of that name
    yield Path(path)


def _config(codec: Path) -> dict[str, object] | None:
    path = codec / "config.json"
    try:
        config = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def _same_model(config: dict[str, object], facts: dict[str, object]) -> bool:
    model, ours = facts.get("model"), config.get("model", config)
    if not isinstance(model, dict) or not isinstance(ours, dict):
        return False
    return all(ours[name] == value for name, value in model.items() if name in ours)


def _is_newer(weights: Path, evaluation: Recorded) -> bool:
    created = evaluation.record.get("created")
    try:
        measured = datetime.strptime(str(created), "%Y-%m-%dT%H:%M:%S%z")
        return weights.stat().st_mtime > measured.timestamp() + _CLOCK_S
    except (OSError, ValueError):  # no weights there, or no time in the record
        return False


# --- which rows were measured on the same data: only their errors compare -------------------------------------------


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the rows with the names of their data sets made longer until unlike ones have unlike names.

    What differs is appended: the metric, the catalogue's size, of the users' own files the paths, the database's rows.
    """
    names = {run.data for run in runs}
    told = [run if _with_size(run) not in names else replace(run, data=_with_size(run)) for run in runs]
    for fact in (_metric, _size, _file("train"), _file("database"), _num_database):
        told = _split(told, fact)
    return told


def _split(runs: Sequence[Run], fact: Callable[[Run], _Fact]) -> list[Run]:
    facts = {run: fact(run) for run in runs}
    known: dict[str, dict[object, str]] = {}
    for run, found in facts.items():
        if found is not None:
            known.setdefault(run.data, {})[found[0]] = found[1]
    return [
        run if found is None or len(all_known := known[run.data]) == 1
        else replace(run, data=run.data + _shown(found, all_known))
        for run, found in facts.items()
    ]  # fmt: skip


def _shown(fact: tuple[object, str], all_known: dict[object, str]) -> str:
    """Of a path its last part, where that says which."""
    whole, text = fact
    return f", {whole}" if isinstance(whole, str) and list(all_known.values()).count(text) > 1 else text


def _metric(run: Run) -> _Fact:
    metric = _first(run, "evaluate.metric", "search.metric", "data.metric") or "l2"  # there was no other at first
    return str(metric), "" if metric == "l2" else f", {metric}"


def _with_size(run: Run) -> str:
    """Return the name as evaluations of the catalogue's data sets have it."""
    return f"{run.data} {run.options.get('data.size')}"


def _size(run: Run) -> _Fact:
    size = run.options.get("data.size")
    return None if size is None or run.data.endswith(f" {size}") else (str(size), f" {size}")


def _file(name: str) -> Callable[[Run], _Fact]:
    def path(run: Run) -> _Fact:
        found = _first(run, f"evaluate.{name}", f"data.{name}")
        return None if found is None else (str(found), f", {PurePath(str(found)).name}")

    return path


def _num_database(run: Run) -> _Fact:
    count = _first(run, "evaluate.num_database", "search.num_database", "data.num_database")
    is_count = isinstance(count, int) and not isinstance(count, bool)
    return (count, f", {count:,}") if is_count else None


def _first(run: Run, *names: str) -> object:
    return next((value for name in names if (value := run.options.get(name)) is not None), None)
