"""The folder of a run: who works in it, what was typed for it, and what it has reported; read without Lightning."""

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

from qinco_lit.atomic import replace_directory
from qinco_lit.locks import is_held, locked

LOCK = ".lock"
TYPED = ".hydra"  # as Hydra writes it: config.yaml, hydra.yaml, overrides.yaml
BASELINES, BEFORE_EPOCHS = ("rq", "pq"), -1  # of a training of few vectors, and the epoch under which they are reported
_OWN = uuid4().hex[:12]  # of this process, so that others' records are told from its own


def only_process(run_dir: Path) -> AbstractContextManager[bool]:
    """Hold a run folder for the block. Raises ValueError: another process works in it."""
    return locked(run_dir / LOCK, busy=_busy(run_dir))


def check_unused(run_dir: Path) -> None:
    """Raise ValueError where another process works in a run folder."""
    if is_held(run_dir / LOCK):
        raise ValueError(_busy(run_dir))


def _busy(run_dir: Path) -> str:
    return f"{run_dir}: another process works in this folder; wait for it, or give hydra.run.dir=DIR"


def reserved(folder: Path) -> Path:
    """Make a folder that is nobody else's, and return it: of this name, or with a number behind it.

    Raises:
        OSError: it cannot be made.
    """
    with _one_line(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            own = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
            with contextlib.suppress(FileExistsError):
                own.mkdir()
                return own
    raise AssertionError


def made(folder: Path) -> bool:
    """Make a folder, and tell whether it was not there. Raises OSError where it cannot be made."""
    with _one_line(folder):
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    return is_new


def check_can_be_made(folder: Path) -> None:
    """Raise OSError for a folder that cannot be made, as far as what is there tells."""
    with _one_line(folder):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
        for name in folder.absolute().relative_to(there).parts:
            with contextlib.suppress(FileNotFoundError):
                (there / name).lstat()  # raises for names that are too long
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


@contextlib.contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"the folder {folder} cannot be made ({error.strerror}): name another one") from None


# --- what was typed -------------------------------------------------------------------------------------------------


def staged_record(run_dir: Path) -> Path:
    """Where this process keeps the record of a run until that begins: until then it may be refused."""
    return run_dir / f"{TYPED}.{_OWN}.tmp"


def take_record(run_dir: Path) -> None:
    """Put the staged record, if there is one, in the place of what was there."""
    if staged_record(run_dir).is_dir():
        replace_directory(staged_record(run_dir), run_dir / TYPED)


# --- what was reported ----------------------------------------------------------------------------------------------


def measured(metrics_path: Path) -> dict[str, Any]:
    """What summary.json says of the reports.

    Keys: `best_epoch` (from 0; BEFORE_EPOCHS: a baseline; None without validation), `best_metrics`, the report of that
    epoch, and `last_metrics`, the last figures of validation and dead codewords.
    """
    best = best_epoch(metrics_path)
    last: dict[str, float] = {}
    for row in _rows(metrics_path):
        figures = {name: value for name, value in row.items() if name.startswith("val/")}
        last |= figures | {name: row[name] for name in ("train/dead_codewords",) if name in row}
    return {"best_epoch": best.get("epoch"), "best_metrics": best, "last_metrics": last}


def best_epoch(metrics_path: Path) -> dict[str, float]:
    """The report of the validation with the lowest `val/mse`; empty when there was none.

    Keys as in the file: `val/mse`, `val/mse_step_m`, `val/entropy_bits`, ..., `epoch` (from 0), `step`. Of two reports
    of one step the later counts.
    """
    by_step = {row["step"]: row for row in _rows(metrics_path) if "val/mse" in row}
    return min(by_step.values(), key=lambda row: row["val/mse"], default={})


def _rows(metrics_path: Path) -> list[dict[str, float]]:
    """The reports; a line that a kill cut short is none."""
    rows = []
    for line in metrics_path.read_text().splitlines() if metrics_path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
