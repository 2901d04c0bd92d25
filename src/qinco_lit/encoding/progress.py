"""How far work is, in a line."""

from qinco_lit.progress import duration

__all__ = ["duration", "progress_line"]


def progress_line(done: int, total: int, new_rows: int, seconds: float) -> str:
    """Return rows done, share, rate and time left: `1,000 of 4,000 rows (25 %) · 50 rows/s · 1 min left`."""
    line = f"{done:,} of {total:,} rows ({100 * done / total:.0f} %)"
    if new_rows <= 0 or seconds <= 0:
        return line
    rate = new_rows / seconds
    return f"{line} · {rate:,.0f} rows/s · {duration((total - done) / rate)} left"
