"""How measured and published numbers are written, and what lies between them."""

import math
from dataclasses import dataclass
from urllib.parse import quote

from qinco_lit.reports.iclr.published import Published, published_unit
from qinco_lit.reports.iclr.records import Measured
from qinco_lit.reports.page import Link

NOT_FINITE = "not finite"
MINUS = "\N{MINUS SIGN}"

_DATASETS = {
    "bigann1m": "BigANN1M",
    "deep1m": "Deep1M",
    "contriever1m": "Contriever1M",
    "fb_ssnpp1m": "FB-ssnpp1M",
    "bigann1b": "BigANN1B",
    "deep1b": "Deep1B",
}
_METRICS = {
    "mse": "MSE",
    "validation_mse": "validation MSE",
    "recall_at_1": "R@1",
    "recall_at_10": "R@10",
    "recall_at_100": "R@100",
    "encode_us_per_vector": "encode",
    "decode_us_per_vector": "decode",
    "queries_per_s": "queries/s",
    "parameters": "parameters",
    "train_s": "training time",
}
_UNIT_TEXTS = {
    "encode_us_per_vector": "µs per vector",
    "decode_us_per_vector": "µs per vector",
    "parameters": "million",
    "train_s": "s",
}
# Rates of methods come before their names in alphabetical order: the order of the papers' tables.
_METHODS = ("OPQ", "PQ", "RQ", "LSQ", "UNQ", "QINCo1", "QINCo-LR", "QINCo2-tiny", "QINCo2-S", "QINCo2-M", "QINCo2-L")


@dataclass(frozen=True)
class Unit:
    """What one of a written number is worth, and how it is called."""

    size: float
    text: str


def unit_of(metric: str, dataset: str) -> Unit:
    """Return the unit of a metric in tables: the papers' for their data sets, else raw."""
    if is_recall(metric):
        return Unit(0.01, "%")
    size = 1e6 if metric == "parameters" else published_unit(metric.removeprefix("validation_"), dataset)
    text = _UNIT_TEXTS.get(metric, "" if size == 1 else f"×10{_superscript(round(math.log10(size)))}")
    return Unit(size, text)


def metric_label(metric: str, dataset: str = "") -> str:
    """Return the name of a metric with its unit: MSE ×10⁴, R@1 %; encode, µs per vector."""
    name = _METRICS.get(metric, metric.replace("_", " "))
    if metric in _UNIT_TEXTS:
        return f"{name}, {_UNIT_TEXTS[metric]}"
    return f"{name} {unit_of(metric, dataset).text}".strip()


def dataset_label(dataset: str) -> str:
    """Return the name of a data set as the papers write it."""
    return _DATASETS.get(dataset, dataset)


def method_place(method: str) -> tuple[int, str]:
    """Return where a method stands in tables: in the papers' order, then by name."""
    places = [
        place for place, name in enumerate(_METHODS) if method == name or method.startswith((f"{name} ", f"{name}-"))
    ]
    return (places[0] if places else len(_METHODS), method)


def is_recall(metric: str) -> bool:
    """Return whether this is a recall: the larger the better."""
    return metric.startswith("recall_at_")


def value_text(value: float, metric: str, dataset: str = "") -> str:
    """Return one value in the unit of its metric: four digits, recall with one decimal."""
    if not math.isfinite(value):
        return NOT_FINITE
    number = value / unit_of(metric, dataset).size
    if is_recall(metric):
        return f"{number:.1f}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:#.4g}".rstrip(".")


def measured_text(measured: Measured) -> str:
    """Return mean, spread and number of seeds: 1.134, or 1.134 ± 0.004 (n=3)."""
    first = measured.first
    text = value_text(measured.mean, first.metric, first.dataset)
    failed = len(measured.records) - len(measured.finite)
    if measured.spread is not None:
        spread = measured.spread / unit_of(first.metric, first.dataset).size
        decimals = len(text.partition(".")[2])
        text += f" ± {spread:,.{decimals}f} (n={len(measured.finite)})"
    if failed and measured.finite:
        text += f", {failed} of {len(measured.records)} {NOT_FINITE}"
    return text


def measured_link(measured: Measured | None) -> Link | None:
    """Return the cell of a measurement: what was measured, leading to the folder of its first run."""
    return None if measured is None else Link(measured_text(measured), run_href(measured.first.run))


def run_href(run: str) -> str:
    """Return a run folder as a link of the report beside it."""
    return quote(run)


def difference_text(measured: Measured, published: Published) -> str:
    """Return ours minus published in the papers' unit, and relative: +0.03 (+2.7 %); of recall the points alone."""
    ours, theirs = measured.mean, published.value
    if not math.isfinite(ours):
        return ""
    difference = (ours - theirs) / published.unit
    if is_recall(published.metric):
        return signed(difference, 1)
    decimals = len(published.printed.partition(".")[2])
    return f"{signed(difference, decimals + 1)} ({percent_text(ours, theirs)})"


def percent_text(value: float, base: float) -> str:
    """Return how much larger a value is than another: +2.7 %; nothing where that cannot be said."""
    if not (math.isfinite(value) and math.isfinite(base) and base > 0):
        return ""
    return f"{signed(100 * (value / base - 1), 1)} %"


def points_text(value: float, base: float) -> str:
    """Return the difference of two recalls in points: +1.3."""
    return signed(100 * (value - base), 1) if math.isfinite(value) and math.isfinite(base) else ""


def signed(number: float, decimals: int) -> str:
    """Return a number with its sign; none where it rounds to zero."""
    text = f"{abs(number):,.{decimals}f}"
    if not any(digit in "123456789" for digit in text):
        return text
    return f"{MINUS if number < 0 else '+'}{text}"


def rate_text(num_bytes: float) -> str:
    """Return a rate for headings: 8 bytes."""
    return f"{num_bytes:g} byte{'' if num_bytes == 1 else 's'}"


def _superscript(exponent: int) -> str:
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(exponent))
