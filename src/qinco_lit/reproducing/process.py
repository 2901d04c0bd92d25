"""One task as a process of its own: its log, its lock, how it is stopped."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from qinco_lit.locks import is_held, locked_with_children
from qinco_lit.reproducing.state import RECORD, read_json, write_record
from qinco_lit.reproducing.tasks import Task

QINCO = (sys.executable, "-m", "qinco_lit.cli")
LOG = "task.log"
_LOCK = ".task.lock"
_POLL_S = 0.05
# To write a checkpoint after being asked to stop; a training step of the largest model takes seconds.
_GRACE_S = 120.0


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
