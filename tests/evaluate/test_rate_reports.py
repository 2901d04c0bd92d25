"""The rates of an evaluation for readers: a table, notes and a plot."""

from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from qinco_lit.reports.evaluation import rates_markdown, rates_notes, rates_table
from qinco_lit.reports.evaluation_plots import rates_figure
from qinco_lit.reports.kit.plots import figure_bytes

SEARCH = {"beam_size": 8, "num_candidates": None, "candidate_budget": 16}


def _figures(mse: float, recall: float | None, encode: float, decode: float) -> dict[str, Any]:
    recalls = {f"recall_at_{k}": None if recall is None else min(1.0, recall * k) for k in (1, 10, 100)}
    return {"mse": mse, **recalls, "encode_vectors_per_s": encode, "decode_vectors_per_s": decode}


def _point(num_steps: int, prefix: float, encoded: float, dedicated: float | None) -> dict[str, Any]:
    figures = _figures(prefix, 0.02 * num_steps, 0, 0)
    return {
        "num_steps": num_steps,
        "bytes_per_vector": float(num_steps),
        "prefix": {name: value for name, value in figures.items() if not name.endswith("_s")},
        "encoded": _figures(encoded, 0.03 * num_steps, 8000 / num_steps, 500_000),
        "dedicated": None if dedicated is None else _figures(dedicated, 0.04 * num_steps, 4321, 400_000),
    }


@pytest.fixture
def record() -> dict[str, Any]:
    model = {"outer_skip": True, "num_steps": 4}
    whole = {"bytes_per_vector": 4.0, "num_steps": 4, **_figures(20_000.0, 0.12, 2000, 500_000)}
    last = {**_point(4, 20_000.0, 20_000.0, None), "encoded": whole}
    return {
        "codec": {"model": model, "num_steps": 4, **SEARCH},
        "data": {"name": "photo_sift", "dim": 128, "num_database": 20_000},
        "methods": {"codec": whole},
        "rates": {
            "dedicated": [{"path": "runs/two/codec", "num_steps": 2, "model": model, **SEARCH}],
            "points": [_point(1, 80_000.0, 76_000.0, None), _point(2, 50_000.0, 48_000.0, 47_500.0), last],
        },
    }


def _terminal(record: dict[str, Any], width: int = 80) -> str:
    stream = StringIO()
    Console(width=width, file=stream).print(rates_table(record))
    return stream.getvalue()


def test_the_table_says_what_the_record_says(record: dict[str, Any]) -> None:
    lines = [line for line in rates_markdown(record).splitlines() if line.startswith("|")]
    assert lines[2:] == [
        "| 1 | 1 | prefix of 4 | 80,000 | 1.000 | 2.0 | 20.0 | 100.0 | 2.00k | 500k |",
        "| 1 | 1 | own search | 76,000 | 0.950 | 3.0 | 30.0 | 100.0 | 8.00k | 500k |",
        "| 2 | 2 | prefix of 4 | 50,000 | 1.000 | 4.0 | 40.0 | 100.0 | 2.00k | 500k |",
        "| 2 | 2 | own search | 48,000 | 0.960 | 6.0 | 60.0 | 100.0 | 4.00k | 500k |",
        "| 2 | 2 | dedicated | 47,500 | 0.950 | 8.0 | 80.0 | 100.0 | 4.32k | 400k |",
        "| 4 | 4 | all 4 | 20,000 | 1.000 | 12.0 | 100.0 | 100.0 | 2.00k | 500k |",
    ]
    assert len({line.count("|") for line in lines}) == 1


def test_the_terminal_table_fits_80_columns_untruncated(record: dict[str, Any]) -> None:
    for point, num_steps in zip(record["rates"]["points"], (14, 15, 16), strict=True):
        point["num_steps"], point["bytes_per_vector"] = num_steps, 1.25 * num_steps
    record["methods"]["codec"]["num_steps"] = 16
    text = _terminal(record)
    assert "…" not in text
    for cell in ("prefix of 16", "18.75", "80,000", "100.0", "2.00k"):
        assert cell in text


def test_notes_say_where_dedicated_models_are_and_when_they_were_searched_otherwise(record: dict[str, Any]) -> None:
    notes = rates_notes(record)
    assert "dedicated: a model that was trained for so many codes (2: QINCo2 in runs/two/codec)." in notes
    assert "searched with" not in notes
    record["rates"]["dedicated"][0]["candidate_budget"] = 64
    assert (
        "The dedicated model of 2 codes was searched with beam 8, 64 candidates a step, the codec with beam 8, "
        "16 candidates a step: what they differ in is not the training alone." in rates_notes(record)
    )
    record["rates"]["dedicated"] = []
    assert "dedicated" not in rates_notes(record)


def _lines(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {str(line.get_label()): line.get_xydata() for line in axes.get_lines()} for axes in rates_figure(record).axes
    ]


def test_the_plot_has_a_line_for_each_way(record: dict[str, Any]) -> None:
    error, relative, recall = _lines(record)
    prefix, encoded, dedicated = error
    np.testing.assert_array_equal(error[prefix], [[1, 80_000], [2, 50_000], [4, 20_000]])
    np.testing.assert_array_equal(error[encoded], [[1, 76_000], [2, 48_000], [4, 20_000]])
    # the codec itself was trained for all of its codes
    np.testing.assert_array_equal(error[dedicated], [[2, 47_500], [4, 20_000]])
    np.testing.assert_allclose(relative[encoded], [[1, -5], [2, -4], [4, 0]])
    np.testing.assert_allclose(relative[dedicated], [[2, -5], [4, 0]])
    np.testing.assert_allclose(recall[prefix], [[1, 2], [2, 4], [4, 8]])


def test_without_dedicated_models_there_are_two_lines_and_without_queries_no_recall(record: dict[str, Any]) -> None:
    record["rates"]["points"][1]["dedicated"] = None
    assert [len(lines) for lines in _lines(record)] == [2, 2, 2]
    record["methods"]["codec"]["recall_at_1"] = None
    assert len(_lines(record)) == 2


def test_a_dedicated_model_of_all_codes_takes_the_place_of_the_codec(record: dict[str, Any]) -> None:
    record["rates"]["points"][-1]["dedicated"] = _figures(19_000.0, 0.2, 1, 1)
    *_, dedicated = _lines(record)[0].values()
    np.testing.assert_array_equal(dedicated, [[2, 47_500], [4, 19_000]])


def test_figures_are_valid_files_and_reproducible(record: dict[str, Any]) -> None:
    png = figure_bytes(rates_figure(record), "png")
    assert png.startswith(b"\x89PNG")
    assert figure_bytes(rates_figure(record), "png") == png
