"""How far long work is: a bar on a terminal, a line every 15 seconds elsewhere."""

import contextlib
import logging
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

log = logging.getLogger(__name__)

_LINE_EVERY_S, _BAR_EVERY_S = 15.0, 0.5


class Progress:
    """Counts what is done of some work and shows it on standard error; a context manager, safe to call from threads.

    A bar is drawn on a terminal; elsewhere a line is logged now and then, none for work that takes a few seconds; where
    nobody listens to the log, as in a notebook, it is written to standard error. The description holds what is done,
    its rate in this run, and the time that is left at that rate.

    Args:
        unit: what is counted (`vectors`, `codes`); `bytes` are shown as kB, MB or GB.
        show: False: nothing is shown.
        line_every_s: seconds between lines.
    """

    def __init__(self, unit: str = "rows", *, show: bool = True, line_every_s: float = _LINE_EVERY_S) -> None:
        self._unit, self._show, self._line_every_s = unit, show, line_every_s
        self._what, self._total, self._done, self._first = "", 0, 0, 0
        self._began = self._shown = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._lock = threading.Lock()

    def start(self, what: str, total: int | None, *, done: int = 0) -> None:
        """Begin work of `total` units (None: not known), of which `done` were done before; ends what was shown."""
        with self._lock:
            self._what, self._total, self._done, self._first = what, total or 0, done, done
            self._began = self._shown = time.monotonic()
            if not self._show:
                return
            if self._bar is None:
                self._bar = _started_bar()
            if self._bar is not None:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(what, total=total, completed=done)

    @property
    def has_bar(self) -> bool:
        """Whether a bar is drawn."""
        return self._bar is not None

    def advance(self, units: int = 1, *, what: str | None = None) -> None:
        """Count units of work, negative when some were lost; show how far it is when it is time.

        `what` is shown in the place of what `start` said.
        """
        with self._lock:
            self._reach(self._done + units, what)

    def reach(self, done: int, *, what: str | None = None) -> None:
        """Set how many units are done in all; show how far the work is when it is time."""
        with self._lock:
            self._reach(done, what)

    def _reach(self, done: int, what: str | None) -> None:
        self._done, self._what = done, self._what if what is None else what
        now = time.monotonic()
        if not self._show or now - self._shown < (self._line_every_s if self._bar is None else _BAR_EVERY_S):
            return
        self._shown = now
        line = f"{self._what}: {self.line(now - self._began)}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=line)
        else:
            _tell(line)

    def note(self, text: str) -> None:
        """Tell the user one line, above the bar where there is one."""
        with self._lock:
            if self._bar is not None:
                self._bar.console.print(text, soft_wrap=True, markup=False, highlight=False)
            elif self._show:
                _tell(text)

    def line(self, seconds: float) -> str:
        """Return how far it is after `seconds` of work: `1,000 of 4,000 rows (25 %) · 50 rows/s · 60 s left`."""
        amount = readable_bytes if self._unit == "bytes" else lambda units: f"{units:,.0f}"
        unit = "" if self._unit == "bytes" else f" {self._unit}"
        line = f"{amount(self._done)}{unit}"
        if self._total:
            share = 100 * self._done / self._total
            line = f"{amount(self._done)} of {amount(self._total)}{unit} ({share:.0f} %)"
        if self._done <= self._first or seconds <= 0:
            return line
        rate = (self._done - self._first) / seconds
        line = f"{line} · {amount(rate) if rate >= 10 or not unit else f'{rate:.2g}'}{unit}/s"
        return f"{line} · {duration(max(0, self._total - self._done) / rate)} left" if self._total else line

    def stop(self) -> None:
        """Leave the terminal as it was."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar, self._task = None, None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _started_bar() -> "Bar | None":
    """Draw a bar without tasks; None where standard error is no terminal that can redraw its lines."""
    if sys.stderr is None or getattr(sys.stderr, "closed", False):
        return None
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        return None
    bar = Progress(TextColumn("{task.description}", markup=False), BarColumn(), console=console, transient=True)
    bar.start()
    return bar


def _tell(line: str) -> None:
    if log.hasHandlers():
        log.info(line)
    elif sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it: no reason to end the work
            sys.stderr.write(f"{line}\n")


def duration(seconds: float) -> str:
    """Return a time in the two units that matter: `2 h 5 min`, `3 min`, `40 s`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {minutes} min"


def readable_bytes(num_bytes: float) -> str:
    """Return a size in decimal units: `131.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} TB"
