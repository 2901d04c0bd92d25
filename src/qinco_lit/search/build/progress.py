"""How far `index` is: a line now and then, and what is missing after a part."""

import logging
import time
from collections.abc import Callable

from qinco_lit.encoding.progress import progress_line
from qinco_lit.search.build.work import IndexWork

log = logging.getLogger(__name__)

_LINE_EVERY_S = 15.0


def lines_of_progress(total: int, what: str) -> Callable[[int], None]:
    """Return what takes the rows that were just done, and logs a line now and then.

    Args:
        total: rows.
        what: is done with them.
    """
    began = shown = time.monotonic()
    done = 0

    def advance(rows: int) -> None:
        nonlocal done, shown
        done += rows
        now = time.monotonic()
        if now - shown > _LINE_EVERY_S:
            shown = now
            log.info("%s: %s", what, progress_line(done, total, done, now - began))

    return advance


def say_what_is_missing(work: IndexWork, part: int, parts: int) -> None:
    """Log how many parts are complete after this one, and which are not."""
    missing = [number for number in range(parts) if work.part_record(number, parts) is None]
    if not missing:
        log.info("all %d parts are complete: the same command without part= ends the work", parts)
        return
    first = [number for number in missing if number - 1 not in missing]
    last = [number for number in missing if number + 1 not in missing]
    runs = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(first, last, strict=True))
    log.info(
        "part=%d is complete, with it %d of %d parts; missing: part=%s; when %s, the same command without part= ends "
        "the work", part, parts - len(missing), parts, runs, "it is" if len(missing) == 1 else "they are",
    )  # fmt: skip
