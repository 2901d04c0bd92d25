import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from qinco_lit.atomic import write_atomically
from qinco_lit.reports.evaluation import markdown_table, rich_table, table_notes
from qinco_lit.reports.evaluation_plots import rate_distortion_figure
from qinco_lit.reports.kit.plots import figure_bytes
from qinco_lit.reports.kit.texts import method_label, model_label


def _row(mse_per_step: list[float] | None, mse: float, **more: Any) -> dict[str, Any]:
    return {
        "bytes_per_vector": 4, "num_steps": 4, "mse": mse, "mse_per_step": mse_per_step,
        "recall_at_1": 0.5, "recall_at_10": 0.875, "recall_at_100": 1.0, "entropy_bits": [7.0, 8.0],
        "unused_share": [0.0, 0.1], "encode_vectors_per_s": 999.7, "decode_vectors_per_s": 5_276_023.0, **more,
    }  # fmt: skip


@pytest.fixture
def record() -> dict[str, Any]:
    return {
        "codec": {
            "model": {"outer_skip": True, "num_steps": 4}, "num_steps": 4, "beam_size": 32, "num_candidates": 16,
            "candidate_budget": None,
        },
        "data": {"name": "photo_sift", "metric": "l2", "dim": 128, "num_database": 20000, "num_queries": 1000},
        "device": "cpu",
        "num_threads": {"torch": 2, "faiss": 1},
        "methods": {
            "codec": _row([40000.0, 30000.0, 25000.0, 20000.0], 20000.0),
            "pq": _row(None, 25000.0, from_cache=True),
            "opq": _row(None, 24000.0, from_cache=False),
            "rq": _row([42000.0, 33000.0, 28000.0, 22000.0], 22000.0, from_cache=False),
            "lsq": _row(None, 0.2346, from_cache=False),
        },
    }  # fmt: skip


def test_the_table_says_what_the_record_says(record: dict[str, Any]) -> None:
    lines = markdown_table(record).splitlines()
    assert "| QINCo2 | 4 | 20,000 | 1.000 | 50.0 | 87.5 | 100.0 | 7.50 | 5.0 | 1.00k | 5.28M |" in lines
    assert any(line.startswith("| PQ | 4 | 25,000 | 1.250 |") for line in lines)
    assert any(line.startswith("| LSQ | 4 | 0.2346 |") for line in lines)
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_the_list_id_is_said_beside_methods_that_have_none(record: dict[str, Any]) -> None:
    for num_lists, bits, size in ((65_536, 16, "4+2"), (65_537, 17, "4+2.1"), (4_096, 12, "4+1.5")):
        record["codec"]["model"]["num_lists"] = num_lists
        lines = markdown_table(record).splitlines()
        assert any(line.startswith(f"| QINCo2 | {size} | 20,000 |") for line in lines)
        assert any(line.startswith("| PQ | 4 | 25,000 |") for line in lines)
        assert f"and of the list id ({bits} bits for {num_lists:,} lists)" in table_notes(record)
    record["codec"]["model"]["num_lists"] = None
    assert "list id" not in table_notes(record)


def test_notes_name_threads_search_and_cached_methods(record: dict[str, Any]) -> None:
    notes = table_notes(record)
    assert "beam 32, 16 candidates per hypothesis, on cpu; threads: torch 2, faiss 1" in notes
    budget = {**record, "codec": {**record["codec"], "num_candidates": None, "candidate_budget": 64}}
    assert "beam 32, 64 candidates a step, on cpu" in table_notes(budget)
    short = {**record, "codec": {**record["codec"], "num_steps": 3}}
    assert "Codec: 3 of its 4 codes, beam 32, " in table_notes(short)
    assert "From the cache, with the speeds of then: PQ." in notes


def test_notes_say_what_nearest_means_where_it_is_not_squared_l2(record: dict[str, Any]) -> None:
    sentences = {}
    for metric in ("l2", "ip", "cosine"):
        record["data"]["metric"] = metric
        sentences[metric] = table_notes(record).splitlines()[1]
    search = "R@k: true nearest neighbour among the first k of exact search in the reconstructions, 1,000 queries"
    assert sentences == {
        "l2": f"{search}.",
        "ip": f"{search}; nearest by inner product.",
        "cosine": f"{search}; nearest by cosine: vectors were normalised to unit length, then the inner product.",
    }


def test_the_terminal_table_fits_80_columns_untruncated(record: dict[str, Any]) -> None:
    stream = StringIO()
    Console(width=80, file=stream).print(rich_table(record))
    text = stream.getvalue()
    assert "…" not in text
    for cell in ("QINCo2", "20,000", "100.0", "5.28M", "entropy"):
        assert cell in text


def test_models_are_named_by_what_they_are_made_of(record: dict[str, Any]) -> None:
    assert method_label(record, "codec") == "QINCo2"
    record["codec"]["model"]["outer_skip"] = False
    assert method_label(record, "codec") == "QINCo1"
    names = {
        "QINCo1-LR": {"concat_rank": 64, "num_parts": None},
        "PQ-QINCo1": {"num_parts": 2, "opq": False},
        "OPQ-QINCo1-LR": {"num_parts": 2, "opq": True, "concat_rank": 64},
        "QINCo1": {"concat_rank": None},
    }
    assert {name: model_label({"outer_skip": False, **options}) for name, options in names.items()} == dict(
        zip(names, names, strict=True)
    )


def test_the_plot_shows_prefixes_as_curves_and_others_as_points(record: dict[str, Any]) -> None:
    (axes,) = rate_distortion_figure(record).axes
    curves = {str(line.get_label()).split(":")[0]: line for line in axes.get_lines()}
    np.testing.assert_array_equal(curves["QINCo2"].get_xydata(), [[1, 4e4], [2, 3e4], [3, 2.5e4], [4, 2e4]])
    np.testing.assert_array_equal(curves["RQ"].get_ydata(), record["methods"]["rq"]["mse_per_step"])
    np.testing.assert_array_equal(curves["PQ"].get_xydata(), [[4, 25000]])
    assert "bytes" in axes.get_xlabel()
    assert "MSE" in axes.get_ylabel()


def test_methods_can_be_told_apart_without_colour(record: dict[str, Any]) -> None:
    (axes,) = rate_distortion_figure(record).axes
    named = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    assert len({line.get_marker() for line in named}) == len(named) == 5


def test_figures_are_valid_files_and_reproducible(record: dict[str, Any]) -> None:
    png, svg = (figure_bytes(rate_distortion_figure(record), suffix) for suffix in ("png", "svg"))
    assert png.startswith(b"\x89PNG")
    assert b"</svg>" in svg
    assert figure_bytes(rate_distortion_figure(record), "png") == png
    assert b"<dc:date>" not in svg


def test_plotting_leaves_pyplot_alone(record: dict[str, Any]) -> None:
    loaded = "matplotlib.pyplot" in sys.modules
    figure_bytes(rate_distortion_figure(record), "png")
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "table.md"
    write_atomically(path, "old")

    def fails(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.md"]
