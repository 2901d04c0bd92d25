"""How far downloads are: a bar for each file on a terminal, a line now and then elsewhere."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from qinco_lit.downloads import Progress
from qinco_lit.downloads.remote_file import readable

_log = logging.getLogger(__name__)

_LINE_EVERY_S = 15.0


@contextlib.contextmanager
def progress_shown(line_every_s: float = _LINE_EVERY_S) -> Iterator[Progress]:
    """Show progress for the block, in the way that fits standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(line_every_s)
        return
    columns = (
        TextColumn("{task.fields[phase]} {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        yield _Terminal(bars)


class _Terminal:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def begin(self, name: str, phase: str, done: int, total: int | None) -> None:
        self.end(name)
        self._tasks[name] = self._bars.add_task(name, total=total, completed=done, phase=phase)

    def advance(self, name: str, num_bytes: int) -> None:
        self._bars.advance(self._tasks[name], num_bytes)

    def end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)

    def note(self, text: str) -> None:
        self._bars.console.print(text, soft_wrap=True, markup=False, highlight=False)


@dataclass
class _Phase:
    name: str
    done: int
    total: int | None
    first: int
    began: float = field(default_factory=time.monotonic)


class Lines:
    """Logs a line for every file at work, every `every_s` seconds in which bytes come."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._shown = every_s, time.monotonic()
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, phase: str, done: int, total: int | None) -> None:
        """Start the clock of a file's phase."""
        with self._lock:
            self._phases[name] = _Phase(phase, done, total, done)

    def advance(self, name: str, num_bytes: int) -> None:
        """Count; say how far all files are when it is time."""
        with self._lock:
            self._phases[name].done += num_bytes
            now = time.monotonic()
            if now - self._shown >= self._every_s:
                self._shown = now
                for file, phase in self._phases.items():
                    seconds = now - phase.began
                    _log.info(progress_line(f"{phase.name} {file}", phase.done, phase.total, phase.first, seconds))

    def end(self, name: str) -> None:
        """Forget a file."""
        with self._lock:
            self._phases.pop(name, None)

    def note(self, text: str) -> None:
        """Log a line."""
        _log.info(text)


def progress_line(what: str, done: int, total: int | None, first: int, seconds: float) -> str:
    """Return `downloading x: 1.0 GB of 4.0 GB (25 %) · 50.0 MB/s · 0:01:00 left`; `first` bytes were there before."""
    line = f"{what}: {readable(done)}"
    if total:
        line += f" of {readable(total)} ({100 * done / total:.0f} %)"
    if done <= first or seconds <= 0:
        return line
    rate = (done - first) / seconds
    line += f" · {readable(rate)}/s"
    return line if total is None else f"{line} · {timedelta(seconds=round((total - done) / rate))} left"
