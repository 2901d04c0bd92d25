"""How far long work is: a bar on a terminal, a line every 10 seconds elsewhere."""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

log = logging.getLogger(__name__)

_LINE_EVERY_S, _BAR_EVERY_S = 10.0, 0.5
_TICK_S = 1.0  # between looks at work that says nothing itself, at least


class Progress:
    """Counts what is done of some work and shows it on standard error; a context manager, safe to call from threads.

    A bar is drawn on a terminal; elsewhere a line is logged now and then, none for work that takes a few seconds; where
    nobody listens to the log, as in a notebook, it is written to standard error. The description holds what is done,
    its rate in this run, and the time that is left at that rate. Work that counts nothing for so long, or cannot, as
    one call of faiss, is shown by a thread of its own, with the time that it has taken.

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
        self._stopped: threading.Event | None = None  # of the thread that looks at silent work

    def start(self, what: str, total: int | None, *, done: int = 0, unit: str | None = None) -> None:
        """Begin work of `total` units (None: not known), of which `done` were done before; ends what was shown.

        `unit` is counted from now on in the place of what the constructor said.
        """
        with self._lock:
            self._what, self._total, self._done, self._first = what, total or 0, done, done
            self._unit = self._unit if unit is None else unit
            self._began = self._shown = time.monotonic()
            if not self._show:
                return
            if self._stopped is None:
                self._stopped = threading.Event()
                threading.Thread(target=self._look, args=(self._stopped,), name="progress", daemon=True).start()
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
        if self._stopped is not None and self._shown + self._every_s <= time.monotonic():
            self._show_line()

    @property
    def _every_s(self) -> float:
        return self._line_every_s if self._bar is None else _BAR_EVERY_S

    def _show_line(self) -> None:
        self._shown = time.monotonic()
        line = f"{self._what}: {self.line(self._shown - self._began)}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=line)
        else:
            _tell(line)

    def _look(self, stopped: threading.Event) -> None:
        """Show work that has said nothing for so long."""
        wait_s = _TICK_S
        while not stopped.wait(wait_s):
            with self._lock:
                if stopped.is_set():
                    return
                silent_s = time.monotonic() - self._shown
                if silent_s >= self._every_s:
                    silent_s = 0.0
                    self._show_line()
                wait_s = max(_TICK_S, self._every_s - silent_s)

    def note(self, text: str) -> None:
        """Tell the user one line, above the bar where there is one."""
        with self._lock:
            if self._bar is not None:
                self._bar.console.print(text, soft_wrap=True, markup=False, highlight=False)
            elif self._show:
                _tell(text)

    def line(self, seconds: float) -> str:
        """Return how far it is after `seconds` of work: `1,000 of 4,000 rows (25 %) · 50 rows/s · 60 s left`.

        Work of unknown size that has counted nothing: `20 s`.
        """
        if not self._total and self._done == 0:
            return duration(seconds)
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
        """End what is shown, and leave the terminal as it was; `start` may begin other work."""
        with self._lock:
            if self._stopped is not None:
                self._stopped.set()
                self._stopped = None
            if self._bar is not None:
                self._bar.stop()
                self._bar, self._task = None, None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def shown(what: str, *, show: bool = True) -> Iterator[None]:
    """Show how long the work of the block has taken."""
    with Progress(show=show) as progress:
        progress.start(what, None)
        yield


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
