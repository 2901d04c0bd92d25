"""Our measurements: the records of results.json, those of several seeds put together."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

Settings = tuple[tuple[str, Any], ...]
_NAMES = ("section", "dataset", "method", "num_bytes", "metric", "value", "run")
# Told beside the settings, but an outcome: it differs between seeds that are to be put together.
_OUTCOMES = ("epochs",)


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
