"""No published number is altered on its way from the papers' tables to the report."""

import json
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from qinco_lit.reports.iclr import published
from qinco_lit.reports.iclr.published import find_published, published_gains, published_numbers, published_unit
from qinco_lit.reports.iclr.tables import main_places, published_tables

# A copy of the tables, made apart from published.json: MSE, R@1, R@10, R@100.
TABLES = """
| 8 bytes | BigANN1M | Deep1M | Contriever1M | FB-ssnpp1M |
|---|---|---|---|---|
| OPQ (500k) | 2.95 21.9 64.8 95.4 | 0.26 15.9 51.2 88.2 | 1.87 8.0 24.7 50.8 | 9.52 2.5 5.1 10.9 |
| RQ | 2.49 27.9 75.2 98.0 | 0.20 21.9 64.0 95.2 | 1.82 9.7 27.1 52.6 | 9.18 2.7 5.9 14.3 |
| LSQ | 1.89 30.6 78.7 98.9 | 0.17 24.5 68.8 96.7 | 1.64 13.1 34.9 62.5 | 8.82 3.5 8.0 18.2 |
| UNQ | 1.12 39.7 88.3 99.6 | 0.14 29.2 77.5 98.8 | | |
| QINCo1 | 1.12 45.2 91.2 99.7 | 0.12 36.3 84.6 99.4 | 1.40 20.7 47.4 74.6 | 8.67 3.6 8.9 20.6 |

| 16 bytes | BigANN1M | Deep1M | Contriever1M | FB-ssnpp1M |
|---|---|---|---|---|
| OPQ (500k) | 1.79 40.5 89.9 99.8 | 0.14 34.9 82.2 98.9 | 1.71 18.3 40.9 65.4 | 7.25 5.0 11.8 25.9 |
| RQ (500k) | 1.30 49.0 95.0 100 | 0.10 43.0 90.8 99.8 | 1.65 20.2 43.5 68.2 | 7.01 5.4 13.0 29.0 |
| LSQ | 0.97 49.8 95.3 100 | 0.09 41.4 89.3 99.8 | 1.33 25.8 55.0 80.1 | 6.55 6.3 16.2 35.0 |
| UNQ | 0.47 64.3 98.8 100 | 0.06 51.5 95.8 100 | | |
| QINCo1 | 0.32 71.9 99.6 100 | 0.05 59.8 98.0 100 | 1.10 31.1 62.0 85.9 | 6.58 6.4 16.8 35.5 |
"""
# Split of 32 bytes: MSE of PQ-QINCo, with OPQ's rotation.
PRODUCT = "16x2x8 41409 / 41313 · 8x4x8 42494 / 42335 · 4x8x8 42805 / 42524 · 2x16x8 42072 / 41913"
LOW_RANK = {"QINCo-LR (L=4)": ("1.46", "16.7"), "QINCo1 (L=4)": ("1.45", "20.85")}
SIZES = {"QINCo2-S": "1.64", "QINCo2-M": "10.82", "QINCo2-L": "35.59", "QINCo1": "7.83"}

NAMES = {"BigANN1M": "bigann1m", "Deep1M": "deep1m", "Contriever1M": "contriever1m", "FB-ssnpp1M": "fb_ssnpp1m"}
METRICS = ("mse", "recall_at_1", "recall_at_10", "recall_at_100")


def _golden() -> Iterator[tuple[tuple[str, str, str, int, str], str, bool]]:
    """Yield (cell, printed text, trained on 500k vectors) of the two tables."""
    datasets: list[str] = []
    num_bytes = 0
    for line in TABLES.strip().splitlines():
        first, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if first.endswith("bytes"):
            num_bytes, datasets = int(first.split()[0]), [NAMES[name] for name in cells]
        elif first and not first.startswith("-"):
            method = first.removesuffix(" (500k)")
            for dataset, cell in zip(datasets, cells, strict=True):
                for metric, printed in zip(METRICS, cell.split(), strict=bool(cell)):
                    yield ("main", dataset, method, num_bytes, metric), printed, first.endswith("(500k)")


def test_main_tables_are_those_of_the_paper() -> None:
    golden = {cell: (printed, few) for cell, printed, few in _golden()}
    assert len(golden) == 2 * 4 * (4 * 4 + 2)
    ours = {
        (each.section, each.dataset, each.method, each.num_bytes, each.metric): each
        for each in published_numbers()
        if each.section == "main"
    }
    assert ours.keys() == golden.keys()
    for cell, (printed, few) in golden.items():
        assert ours[cell].printed == printed, cell
        assert ("500k" in ours[cell].note) is few, cell
        assert ours[cell].source == "QINCo1 paper, Tables 1 and S2"


def test_values_are_the_printed_numbers_times_their_unit() -> None:
    for each in published_numbers():
        if each.section != "main":
            continue
        unit = "0.01" if each.metric != "mse" else "10000" if each.dataset in ("bigann1m", "fb_ssnpp1m") else "1"
        assert each.value == float(Decimal(each.printed) * Decimal(unit)), each
        assert published_unit(each.metric, each.dataset) == float(unit)
    found = find_published("main", "bigann1m", "QINCo1", 8, "mse")
    assert found is not None
    assert found.value == 11200.0
    recall = find_published("main", "bigann1m", "QINCo1", 8, "recall_at_1")
    assert recall is not None
    assert recall.value == 0.452


def test_numbers_outside_the_main_tables() -> None:
    golden = {}
    for part in PRODUCT.split(" · "):
        split, plain, _, rotated = part.split()
        golden["fb_ssnpp1m", f"PQ-QINCo {split}", 32, "mse"] = (plain, 1.0)
        golden["fb_ssnpp1m", f"OPQ-QINCo {split}", 32, "mse"] = (rotated, 1.0)
    for method, (mse, parameters) in LOW_RANK.items():
        golden["contriever1m", method, 8, "mse"] = (mse, 1.0)
        golden["contriever1m", method, 8, "parameters"] = (parameters, 1e6)
    golden |= {("", method, 8, "parameters"): (millions, 1e6) for method, millions in SIZES.items()}
    others = [each for each in published_numbers() if each.section != "main"]
    assert len(others) == len(golden)
    assert {
        (each.dataset, each.method, each.num_bytes, each.metric): (each.printed, each.unit) for each in others
    } == golden


def test_abstracts_make_relative_claims_only() -> None:
    assert {(each.dataset, each.num_bytes, each.metric, each.percent) for each in published_gains()} == {
        ("bigann1m", 16, "mse", "34"),
        ("bigann1m", 16, "mse", "44"),
        ("deep1m", 8, "recall_at_1", "24"),
    }
    assert {each.source for each in published_gains()} == {
        "QINCo2 paper, abstract",
        "QINCo2 paper, abstract of the final version",
    }


@pytest.mark.parametrize("method", ["QINCo2-S", "QINCo2-M", "QINCo2-L", "QINCo2"])
def test_no_cell_of_the_unknown_tables_is_filled_in(method: str) -> None:
    assert not [each for each in published_numbers() if each.method == method and each.metric != "parameters"]


def test_printed_tables_show_the_printed_digits() -> None:
    tables = list(published_tables())
    assert len(tables) == len(main_places_of_papers()) == 8
    shown = [cell for table in tables for row in table.rows for cell in row[1:] if cell is not None]
    assert sorted(shown, key=str) == sorted(printed for _, printed, _ in _golden())


def main_places_of_papers() -> list[tuple[str, int]]:
    from qinco_lit.reports.iclr.numbers import Measurements

    return main_places(Measurements(()), (), published=True)


def test_the_file_travels_in_the_wheel() -> None:
    folder = Path(published.__file__).parent
    assert json.loads((folder / "published.json").read_text())["tables"]
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["qinco_lit.reports.iclr"]
    data = {path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    assert data == set(patterns)
