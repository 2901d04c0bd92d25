"""How far the work on a store of codes is: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from qinco_lit.encoding.shards import ShardFolder

log = logging.getLogger(__name__)

_LINE_EVERY_S, _BAR_EVERY_S = 15.0, 1.0


class Progress:
    """Rows done by all ranks, the rate of this run, and the time that is left at that rate.

    Counted are the rows that the first rank does, and the shards that others have finished.

    Args:
        folder: of the shards.
        work: what is done with them, in a word.
    """

    def __init__(self, folder: ShardFolder, work: str = "encoding") -> None:
        self._folder, self._work = folder, work
        self._began = self._shown = time.monotonic()
        self._own: set[int] = set()
        self._own_rows = self._first_rows = 0
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def start(self, own_shards: list[int]) -> None:
        """Start the clock: what is finished now is not this run's work. `own_shards` are what the first rank does."""
        self._own = set(own_shards)
        self._first_rows = self._rows()
        self._began = self._shown = time.monotonic()
        if self._first_rows:
            log.info("%s rows are finished already", f"{self._first_rows:,}")
        if sys.stderr.isatty():
            self._bar = Bar(TextColumn("{task.description}"), BarColumn(), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self._work, total=self._folder.info.num_rows)

    def advance(self, rows: int = 0) -> None:
        """Count rows that the first rank has done; show how far the job is, when it is time."""
        self._own_rows += rows
        now = time.monotonic()
        if now - self._shown < (_LINE_EVERY_S if self._bar is None else _BAR_EVERY_S):
            return
        self._shown = now
        done = self._rows()
        line = progress_line(done, self._folder.info.num_rows, done - self._first_rows, now - self._began)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=line)
        else:
            log.info(line)

    def _rows(self) -> int:
        return self._own_rows + self._folder.num_rows(self._folder.finished() - self._own)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def progress_line(done: int, total: int, new_rows: int, seconds: float) -> str:
    """Return rows done, share, rate and time left: `1,000 of 4,000 rows (25 %) · 50 rows/s · 1 min left`."""
    line = f"{done:,} of {total:,} rows ({100 * done / total:.0f} %)"
    if new_rows <= 0 or seconds <= 0:
        return line
    rate = new_rows / seconds
    return f"{line} · {rate:,.0f} rows/s · {duration((total - done) / rate)} left"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter: `2 h 5 min`, `3 min`, `40 s`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {minutes} min"
