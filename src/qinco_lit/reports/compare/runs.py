"""What is compared: everything found, evaluations joined to the trainings they measured, each row named."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from qinco_lit.reports.compare.data_sets import told_apart
from qinco_lit.reports.compare.folders import EVALUATION, SEARCH, TRAINING, Found
from qinco_lit.reports.compare.origin import training_folder
from qinco_lit.reports.compare.records import (
    Evaluation,
    Training,
    UnreadableError,
    read_evaluation,
    read_search,
    read_training,
)
from qinco_lit.reports.compare.rows import Run, evaluation_rows, search_rows, training_row

# What a record of another form leads to: a number too large, a list where there should be a mapping, ...
_OTHER_FORM = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError, OSError)

Warn = Callable[[str], None]
_Made = TypeVar("_Made")


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
        search = _attempt(folder, partial(read_search, folder), warn)
        if search is not None:
            runs += _attempt(folder, partial(search_rows, search), warn) or []
    return _named(_without_repeats(told_apart(runs)))


def _evaluated(
    folders: Iterable[Path], trainings: Mapping[Path, Training], warn: Warn
) -> tuple[list[Run], Counter[Path]]:
    """Return the rows of evaluations, and how many there are of each training."""
    made: list[tuple[Training | None, list[Run]]] = []
    for folder in folders:
        evaluation = _attempt(folder, partial(read_evaluation, folder), warn)
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


def _training_of(evaluation: Evaluation, trainings: Mapping[Path, Training], warn: Warn) -> Training | None:
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
