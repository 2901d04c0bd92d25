"""A task's folder: in which state it is, and the one process that works in it, with its log and its lock."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from qinco_lit.atomic import write_atomically
from qinco_lit.locks import is_held, locked_with_children
from qinco_lit.reproducing.tasks import OUTPUT, Task
from qinco_lit.run_folder import LOCK, TYPED

QINCO = (sys.executable, "-m", "qinco_lit.cli")
LOG = "task.log"
_LOCK = ".task.lock"
_POLL_S = 0.05
# To write a checkpoint after being asked to stop; a training step of the largest model takes seconds.
_GRACE_S = 120.0
RECORD = "task.json"
# Options that change where and how something runs, not what comes out.
_INDIFFERENT = ("hydra", "logger", "resume", "data_dir", "cache_dir", "device", "num_threads")

Found = Literal["done", "changed", "continue", "start"]
State = Literal["done", "missing_data", "not_run", "failed", "skipped"]


@dataclass(frozen=True)
class Status:
    """What was found in a folder. `reason`: of changed, with the folder to remove."""

    found: Found
    reason: str = ""
    wall_s: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task, for the report; `reason` in one line where it is not done."""

    state: State
    reason: str = ""
    wall_s: float | None = None


def status_of(task: Task, needs: list[Task], output: Path) -> Status:
    """Look into the folder of a task.

    Args:
        task, needs: the task and those that it needs directly.
        output: the folder of all tasks.

    Returns:
        done: its results are there, made with the task's options, and no older than what they were made from.
        changed: there are results, or a training to go on with, of other options; they are neither used nor removed.
        continue: a training that has a checkpoint.
        start: anything else; commands other than `train` find by themselves what is left to do.
    """
    folder = output / task.name
    is_there = all((folder / name).is_file() for name in task.done_files)
    summary = read_json(folder / "summary.json") if task.kind == "train" else None
    if task.kind == "train":
        is_there = is_there and (summary or {}).get("state") == "finished"
    can_go_on = task.kind == "train" and (folder / "checkpoints" / "last.ckpt").is_file()
    if not (is_there or can_go_on):
        return Status("start")
    recorded = _recorded_options(folder, summary)
    if recorded is None:
        return Status("changed", f"{folder} has no record of its options: remove it to run the task")
    different = _difference(task, recorded)
    if different:
        return Status("changed", f"{folder} was made with other options ({different}): remove it to run the task")
    if not is_there:
        return Status("continue")
    for need in needs:
        if _finished_at(need, output) > _finished_at(task, output):
            return Status("changed", f"{folder} is older than {need.name}, which it was made from: remove it")
    return Status("done", wall_s=_wall_s(folder, summary))


def trains_by_hand(folder: Path) -> bool:
    """Tell whether a training holds this folder; False where the file system knows no locks."""
    return is_held(folder / LOCK)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, None where no such file is or it is damaged."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def write_record(folder: Path, **values: Any) -> None:
    """Merge values into what the runner notes of a task, atomically."""
    record = (read_json(folder / RECORD) or {}) | values
    write_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _wall_s(folder: Path, summary: dict[str, Any] | None) -> float | None:
    record = read_json(folder / RECORD) or {}
    wall_s = (summary or {}).get("wall_s", record.get("wall_s"))
    return None if wall_s is None else float(wall_s)


def _finished_at(task: Task, output: Path) -> float:
    """When the last result of a task was written, unix time; 0 when there is none."""
    paths = [output / task.name / name for name in task.done_files]
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)


# --- which options a folder was made with ---------------------------------------------------------------------------


def _recorded_options(folder: Path, summary: dict[str, Any] | None) -> dict[str, str] | None:
    """Options by key: as typed, of a run folder; else as the runner noted them."""
    typed = _typed_overrides(folder / TYPED / "overrides.yaml")
    if typed is None:
        command = (read_json(folder / RECORD) or {}).get("command")
        typed = [str(word) for word in command[1:]] if isinstance(command, list) else None
    # a resumed run notes what was added then
    added = [str(word) for word in (summary or {}).get("overrides", ())]
    if typed is None and not added:
        return None
    return _by_key([*(typed or ()), *added])


def _typed_overrides(path: Path) -> list[str] | None:
    """Return the words in a list that Hydra wrote."""
    try:
        words = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return [str(word) for word in words] if isinstance(words, list) else None


def _by_key(words: list[str] | tuple[str, ...]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    return {key: value.strip("\"'") for key, _, value in pairs if key.split(".")[0] not in _INDIFFERENT}


def _difference(task: Task, recorded: dict[str, str]) -> str:
    """Return the first options that differ, as `KEY=recorded, now VALUE`; nothing where none does."""
    wanted = _by_key(task.command[1:])
    keys = [key for key in dict.fromkeys((*recorded, *wanted)) if not _same(recorded.get(key), wanted.get(key))]
    shown = [f"{key}={recorded.get(key, 'not given')}, now {_shown(wanted.get(key))}" for key in keys]
    return "; ".join([*shown[:3], *(["..."] if len(shown) > 3 else [])])


def _same(recorded: str | None, wanted: str | None) -> bool:
    if recorded is None or wanted is None:
        return recorded == wanted
    if wanted.startswith(f"{OUTPUT}/"):  # the folder of all tasks may have been moved or named in another way
        return recorded.endswith(wanted.removeprefix(OUTPUT))
    return recorded == wanted


def _shown(wanted: str | None) -> str:
    return "not given" if wanted is None else wanted


# --- its process ------------------------------------------------------------------------------------------------------


def locked(folder: Path) -> AbstractContextManager[int | None]:
    """Hold a folder's lock for the block and yield its descriptor; None where another process holds it.

    The task's process inherits the lock, so that it is held as long as that runs, also when its parent was killed.
    """
    return locked_with_children(folder / _LOCK)


def is_locked(folder: Path) -> bool:
    """Tell whether a process works in this folder now."""
    return is_held(folder / _LOCK)


def run_process(
    task: Task,
    words: Sequence[str],
    folder: Path,
    *,
    lock: int,
    program: Sequence[str],
    environment: Mapping[str, str],
    stopping: Callable[[], bool],
) -> int:
    """Run a command line to its end, noting it in the folder, and return its exit code.

    Args:
        task: what is noted.
        words: the command line after the program's name; of a continued training not the task's own.
        folder: gets `task.log`, to which is appended.
        lock: descriptor of the folder's lock.
        program: what `qinco` is.
        environment: in addition to this process's.
        stopping: is asked all the time; once true the process is asked to end (SIGINT, to its whole group), and killed
            when it does not in two minutes or when `stopping` is called by a second signal (raises KeyboardInterrupt).
    """
    record = read_json(folder / RECORD) or {}
    earlier_s = float(record.get("wall_s", 0.0)) if record.get("state") == "stopped" else 0.0
    write_record(folder, name=task.name, command=list(task.command), state="running", started=_now(), wall_s=earlier_s)
    began = time.monotonic()
    with (folder / LOG).open("ab") as log:
        log.write(f"$ qinco {shlex.join(words)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [*program, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the terminal's Ctrl-C reaches us, and we tell it
            pass_fds=(lock,),
            env={**os.environ, **environment},
        )
        try:
            code = _wait(process, stopping)
        except BaseException:
            _signal(process, signal.SIGKILL)
            process.wait()
            raise
    state = "done" if code == 0 else "stopped" if stopping() else "failed"
    wall_s = round(earlier_s + time.monotonic() - began, 1)
    write_record(folder, state=state, exit_code=code, ended=_now(), wall_s=wall_s)
    return code


def last_line(folder: Path) -> str:
    """Return what a task said last: for the report of a failure."""
    with (folder / LOG).open("rb") as log:
        log.seek(max(log.seek(0, os.SEEK_END) - 4096, 0))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    said = [line for line in lines if line and not line.startswith("$ ")]
    return said[-1][-300:] if said else "it said nothing"


def _wait(process: "subprocess.Popen[bytes]", stopping: Callable[[], bool]) -> int:
    asked_at: float | None = None
    while True:
        try:
            return process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            pass
        if asked_at is None and stopping():
            asked_at = time.monotonic()
            _signal(process, signal.SIGINT)
        elif asked_at is not None and time.monotonic() - asked_at > _GRACE_S:
            _signal(process, signal.SIGKILL)


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
