"""What the papers report: the numbers of published.json, with their source, digit for digit."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Published:
    """One printed number.

    `printed` is the text in the paper, `unit` what one of it is worth: MSE 2.95 in units of 10,000 is 29,500 (raw
    space, sum over dimensions), R@1 45.2 in units of 0.01 is 0.452. `num_bytes` is the rate of a vector. `datasets` are
    those that ours may be of: `dataset`, or, of a number that is of none, those of the dimension that it holds for.
    """

    section: str
    dataset: str
    method: str
    num_bytes: int
    metric: str
    printed: str
    unit: float
    source: str
    datasets: tuple[str, ...]
    note: str = ""

    @property
    def value(self) -> float:
        """The number in our units: raw MSE, recall in 0..1, parameters."""
        return float(Decimal(self.printed) * Decimal(str(self.unit)))


@dataclass(frozen=True)
class PublishedGain:
    """A claim of an abstract: `metric` of the new method is `percent` % better than the best known before."""

    name: str
    dataset: str
    num_bytes: int
    metric: str
    percent: str
    source: str


@cache
def published_numbers() -> tuple[Published, ...]:
    """Return every number of the papers' tables, in the order of published.json; unknown cells are not in it."""
    content = _content()
    cells = [cell for table in content["tables"] for cell in _table_cells(content, table)]
    return (*cells, *(cell for group in content["cells"] for cell in _group_cells(content, group)))


@cache
def published_gains() -> tuple[PublishedGain, ...]:
    """Return the relative claims of the abstracts."""
    content = _content()
    names = ("name", "dataset", "num_bytes", "metric", "percent")
    return tuple(
        PublishedGain(**{name: gain[name] for name in names}, source=_source(content, gain))
        for gain in content["gains"]
    )


@cache
def published_papers() -> tuple[str, ...]:
    """Return the papers the numbers are from, each as title and place of publication."""
    return tuple(f"{each['short']}: {each['paper']}, {each['where']}" for each in _content()["sources"].values())


def find_published(section: str, dataset: str, method: str, num_bytes: float, metric: str) -> Published | None:
    """Return the published number of this cell, None where none is known."""
    key = (section, dataset, method, num_bytes, metric)
    return _by_cell().get(key)


def published_unit(metric: str, dataset: str) -> float:
    """Return the unit the papers print this metric of this data set in; 1 where they print none."""
    unit = _content()["units"].get(metric, 1)
    return float(unit.get(dataset, 1) if isinstance(unit, Mapping) else unit)


@cache
def _by_cell() -> dict[tuple[str, str, str, float, str], Published]:
    return {
        (each.section, each.dataset, each.method, each.num_bytes, each.metric): each for each in published_numbers()
    }


@cache
def _content() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _table_cells(content: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[Published]:
    for method, datasets in table["rows"].items():
        for dataset, numbers in datasets.items():
            for metric, printed in zip(table["metrics"], numbers, strict=True):
                yield Published(
                    section=table["section"],
                    dataset=dataset,
                    method=method,
                    num_bytes=table["num_bytes"],
                    metric=metric,
                    printed=printed,
                    unit=published_unit(metric, dataset),
                    source=_source(content, table),
                    datasets=(dataset,),
                    note=table["notes"].get(method, table["note"]),
                )


def _group_cells(content: Mapping[str, Any], group: Mapping[str, Any]) -> Iterator[Published]:
    names = ("section", "dataset", "num_bytes", "metric", "note")
    for method, printed in group["printed"].items():
        yield Published(
            **{name: group[name] for name in names},
            method=method,
            printed=printed,
            unit=float(group["unit"]),
            source=_source(content, group),
            datasets=tuple(group.get("datasets", (group["dataset"],))),
        )


def _source(content: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    paper = content["sources"][item["source"]]["short"]
    return f"{paper}, {item['table']}" if "table" in item else paper
