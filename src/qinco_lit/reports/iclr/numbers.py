"""Measured numbers, those of several seeds put together; how they and published ones are written, and compared."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any
from urllib.parse import quote

from qinco_lit.reports.iclr.published import Published, published_unit
from qinco_lit.reports.kit.page import Link
from qinco_lit.reports.kit.texts import signed

Settings = tuple[tuple[str, Any], ...]
_NAMES = ("section", "dataset", "method", "num_bytes", "metric", "value", "run")
# Told beside the settings, but an outcome: it differs between seeds that are to be put together.
_OUTCOMES = ("epochs",)
# The papers' letters, in the order of the papers; T is ours.
SEARCH_SETTINGS = {"num_candidates": "A", "beam_size": "B", "candidate_budget": "T"}
NOT_FINITE = "not finite"
WITHIN_NOISE = "within noise"

# Student's t for a 95 % interval, by degrees of freedom from 1 on; more than these hardly lower it.
_STUDENT_T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)

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


# --- records ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One measured number of one run; `run` is its folder, relative to the report. A value may be NaN."""

    section: str
    dataset: str
    method: str
    num_bytes: float
    metric: str
    value: float
    seed: int | None
    settings: Settings
    run: str


@dataclass(frozen=True)
class Measured:
    """The records that differ in their seed only, one for each seed; `first` tells what they share."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The record of the first seed."""
        return self.records[0]

    @property
    def finite(self) -> tuple[float, ...]:
        """Values that are numbers."""
        return tuple(record.value for record in self.records if math.isfinite(record.value))

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN when no value is a number."""
        return fmean(self.finite) if self.finite else math.nan

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two."""
        return stdev(self.finite) if len(self.finite) > 1 else None


def noise(one: Measured, other: Measured) -> float | None:
    """Return the half of a 95 % interval of the difference of two means over seeds, None without a second seed.

    Both are taken to spread alike, also where one has a single seed: Student's t with the pooled variance.
    """
    groups = [each.finite for each in (one, other)]
    degrees = sum(len(values) - 1 for values in groups)
    if degrees < 1 or not all(groups):
        return None
    squares = sum((value - fmean(values)) ** 2 for values in groups for value in values)
    t = _STUDENT_T[min(degrees, len(_STUDENT_T)) - 1]
    return t * math.sqrt(squares / degrees * sum(1 / len(values) for values in groups))


def is_within_noise(one: Measured, other: Measured) -> bool:
    """Return whether two means are no further apart than seeds alone may bring them; False where no seeds tell."""
    chance = noise(one, other)
    return chance is not None and abs(one.mean - other.mean) < chance


class Measurements:
    """All records, by section, data set, method, rate, metric and settings."""

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take records as in results.json; those without a value (None) are left out.

        Raises:
            ValueError: a record lacks a field, naming both.
        """
        by_key: dict[tuple[Any, ...], dict[Any, Record]] = {}
        for place, raw in enumerate(records):
            record = _record(place, raw)
            if record is not None:
                key = (record.section, record.dataset, record.method, record.num_bytes, record.metric, record.settings)
                # of the same seed the later counts: a folder that was measured again
                by_key.setdefault(key, {})[record.seed] = record
        self.all = tuple(Measured(tuple(_in_order(group))) for group in by_key.values())

    def select(self, **fields: Any) -> list[Measured]:
        """Return what has all of these fields, for example `section="main", metric="mse"`."""
        return [each for each in self.all if all(getattr(each.first, name) == want for name, want in fields.items())]

    def datasets(self, section: str) -> list[str]:
        """Return the data sets of a section in the order of the records."""
        return unique(each.first.dataset for each in self.select(section=section))


def unique(items: Iterable[Any]) -> list[Any]:
    """Return the items without repetitions, in order."""
    return list(dict.fromkeys(items))


def _record(place: int, raw: Mapping[str, Any]) -> Record | None:
    for name in _NAMES:
        if name not in raw:
            raise ValueError(f'record {place} of results.json has no "{name}": {dict(raw)}')
    if raw["value"] is None:
        return None
    told = (raw.get("settings") or {}).items()
    settings = tuple(sorted((name, _hashable(value)) for name, value in told if name not in _OUTCOMES))
    fields = {name: raw[name] for name in _NAMES} | {"value": float(raw["value"])}
    return Record(**fields, seed=raw.get("seed"), settings=settings)


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(sorted((name, _hashable(each)) for name, each in value.items()))
    return tuple(_hashable(each) for each in value) if isinstance(value, list) else value


def _in_order(group: Mapping[Any, Record]) -> list[Record]:
    return sorted(group.values(), key=lambda record: (record.seed is not None, record.seed or 0))


# --- as text ----------------------------------------------------------------------------------------------------------


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


def rate_text(num_bytes: float) -> str:
    """Return a rate for headings: 8 bytes."""
    return f"{num_bytes:g} byte{'' if num_bytes == 1 else 's'}"


def _superscript(exponent: int) -> str:
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(exponent))


def settings_text(settings: Settings) -> str:
    """Return settings for readers, in the papers' letters where they have any: A=16, B=32."""
    known = sorted(settings, key=lambda setting: setting_place(setting[0]))
    return ", ".join(
        f"{setting_label(name)}={setting_value(name, value)}" for name, value in known if value is not None
    )


def setting_label(name: str) -> str:
    """Return a setting's letter in the papers, or its name."""
    return SEARCH_SETTINGS.get(name, name)


def setting_value(name: str, value: Any) -> Any:
    """Return the value of a setting for readers: no pre-selection means all codewords."""
    return "all" if name == "num_candidates" and value == 0 else value


def setting_place(name: str) -> int:
    """Return where a setting stands among others: those with a letter first."""
    return list(SEARCH_SETTINGS).index(name) if name in SEARCH_SETTINGS else len(SEARCH_SETTINGS)
