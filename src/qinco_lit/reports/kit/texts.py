"""Numbers, sizes, names and models as text for readers: each in one way in all reports."""

import html
import re
from collections.abc import Callable, Mapping
from typing import Any

_TIMES = ((365.25 * 86_400, "years"), (86_400.0, "days"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"))
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SPACES = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
# C0 and C1, which move cursors and colour terminals; halves of characters that a file's name may hold.
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Beyond, all digits would fill the screen.
_EXPONENT_FROM = 1e15
MINUS = "\N{MINUS SIGN}"


def number_text(value: float) -> str:
    """Return a number for readers: four digits, thousands separated, no exponent where none is expected."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < _EXPONENT_FROM else f"{value:.4g}"


def shown(value: float, show: Callable[[float], str]) -> str:
    """Return a number as `show` does, enormous ones with an exponent."""
    return f"{value:.4g}" if abs(value) >= _EXPONENT_FROM else show(value)


def three_digits(value: float) -> str:
    """Return a number that is not negative with three digits or more: 3.47, 86.1, 8,610."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def rounded(value: float) -> str:
    """Return a number that is not negative with three digits and no more: 8.61, 861, 8,610."""
    if value < 1000:
        return three_digits(value)
    unit = 10 ** (len(str(int(value))) - 3)
    return f"{round(value / unit) * unit:,}"


def percent(share: float | None) -> str:
    """Return a share in 0..1 as percent with one digit, nothing for None."""
    return "" if share is None else f"{100 * share:.1f}"


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds with three digits, nothing for None."""
    return "" if seconds is None else three_digits(1000 * seconds)


def signed(number: float, decimals: int) -> str:
    """Return a number with its sign; none where it rounds to zero."""
    text = f"{abs(number):,.{decimals}f}"
    if not any(digit in "123456789" for digit in text):
        return text
    return f"{MINUS if number < 0 else '+'}{text}"


def speed_text(value: float) -> str:
    """Return a speed with three digits and a unit: 653, 17.0k, 5.28M."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * unit:
            return three_digits(value / unit) + suffix
    return f"{value:.3g}"


def count_text(count: float) -> str:
    """Return a count short enough for a table: `1,000M`, `81.4k`, `3,072`."""
    for size, unit, least in ((1e6, "M", 1e6), (1e3, "k", 1e4)):
        if count >= least:
            return f"{three_digits(count / size)}{unit}".replace(".00", "").replace(".0k", "k").replace(".0M", "M")
    return three_digits(count) if count < 100 and count != int(count) else f"{count:,.0f}"


def tick_text(value: float) -> str:
    """Return a number at an axis: 5000, 20k, 1M."""
    if abs(value) >= 1e4:
        return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:g}"


def size_text(num_bytes: float) -> str:
    """Return a size in decimal units with three digits: `8.00 GB`."""
    size, unit = next(((size, unit) for size, unit in _SIZES if num_bytes >= size), (1.0, "bytes"))
    return f"{num_bytes:.0f} bytes" if size == 1.0 else f"{three_digits(num_bytes / size)} {unit}"


def time_text(seconds: float) -> str:
    """Return a time in one unit with three digits, as many as an extrapolation bears: `3.47 days`."""
    size, unit = _time_unit(seconds)
    return f"{three_digits(seconds / size)} {unit}"


def range_text(low_s: float, high_s: float, middle_s: float) -> str:
    """Return two times in the unit that `time_text` gives the one between them: `3.12 – 3.61`."""
    size, _ = _time_unit(middle_s)
    return f"{three_digits(low_s / size)} – {three_digits(high_s / size)}"


def _time_unit(seconds: float) -> tuple[float, str]:
    return next(((size, unit) for size, unit in _TIMES if seconds >= 1.5 * size), _TIMES[-1])


def plain(text: str) -> str:
    """Return a text on one line, without control characters."""
    return _NOT_SHOWN.sub("", _SPACES.sub(" ", text))


def markdown(text: str) -> str:
    """Return a text on one line that Markdown shows as it is, in cells of tables too."""
    return html.escape(plain(text), quote=False).replace("|", "\\|")


def data_title(data: Mapping[str, Any]) -> str:
    """Return the headline of plots on a data set: its name, the number of database vectors, their dimension."""
    return f"{data['name']}: {data['num_database']:,} vectors of dimension {data['dim']}"


def method_label(record: Mapping[str, Any], method: str) -> str:
    """Return the name of a method in a record of `evaluate`: PQ, RQ, QINCo2."""
    return model_label(record["codec"]["model"]) if method == "codec" else method.upper()


def model_label(model: Mapping[str, Any]) -> str:
    """Return the name of a model's kind from its options: QINCo2, QINCo1-LR, PQ-QINCo1, OPQ-QINCo2."""
    parts = ("OPQ-" if model.get("opq") else "PQ-") if model.get("num_parts") else ""
    return f"{parts}QINCo{2 if model['outer_skip'] else 1}{'-LR' if model.get('concat_rank') else ''}"


def search_text(search: Mapping[str, Any]) -> str:
    """Return the breadth of a search for codes in words: beam 8, 16 candidates a step."""
    if search["candidate_budget"] is not None:
        candidates = f"{search['candidate_budget']} candidates a step"
    else:
        candidates = f"{search['num_candidates'] or 'all'} candidates per hypothesis"
    return f"beam {search['beam_size']}, {candidates}"
