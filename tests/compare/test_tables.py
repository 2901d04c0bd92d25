"""Tables: what differs, in which order, whole in the files and as much as fits on a terminal."""

import csv
import io
import itertools
import json
import random

import pytest
from rich.console import Console

from qinco_lit.reports.compare.columns import METRICS, check_metric, constants_line, differences, ranked
from qinco_lit.reports.compare.tables import MAX_TERMINAL_ROWS, Comparison, csv_table, markdown_table, terminal_tables
from tests.compare.conftest import edit, read


def _lines(comparison: Comparison, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    for table in terminal_tables(comparison, width):
        console.print(table)
    return console.file.getvalue().splitlines()


@pytest.fixture
def runs(make, tmp_path):
    """Six runs that differ in rate, beam and learning rate, three of them evaluated."""
    grid = itertools.product((4, 8), (1, 8), (0.001, 0.004))
    for seed, (num_steps, beam_size, lr) in enumerate(itertools.islice(grid, 6)):
        make(f"{seed}", num_steps=num_steps, beam_size=beam_size, lr=lr, seed=seed, evaluated=seed % 2 == 0)
    return ranked(read(tmp_path)[0], "mse")


# --- differences --------------------------------------------------------------------------------------------------


def test_every_option_either_differs_or_is_the_same_in_all(runs):
    found = differences(runs)
    for name in found.columns + found.implied:
        assert len({json.dumps(run.options[name]) for run in runs if name in run.options}) > 1
    for name in found.constant:
        assert len({json.dumps(run.options[name]) for run in runs}) == 1
    assert found.columns == ["model.num_steps", "model.beam_size", "recipe.lr", "seed"]
    assert found.implied == []


def test_what_follows_from_the_choice_of_a_model_needs_no_column(make, tmp_path):
    for name, model, blocks in (("a", "qinco2_tiny", 2), ("b", "qinco2_m", 4), ("c", "qinco2_m", 4)):
        folder = make(name)
        edit(folder / "config.json", lambda record, n=blocks: record["model"].update(num_blocks=n))
        edit(folder / "config.json", lambda record, m=model: record["choices"].update(model=m))
    found = differences(read(tmp_path)[0])
    assert (found.columns, found.implied) == (["model"], ["model.num_blocks"])
    # typed by somebody, it is of interest in all
    summary = tmp_path / "c" / "summary.json"
    edit(summary, lambda record: record.update(overrides=["model=qinco2_m", "model.num_blocks=4"]))
    assert differences(read(tmp_path)[0]).columns == ["model", "model.num_blocks"]
    # the same choice, another value: an older version's default, or an edited file
    edit(summary, lambda record: record.update(overrides=[]))
    edit(tmp_path / "c" / "config.json", lambda record: record["model"].update(num_blocks=3))
    assert differences(read(tmp_path)[0]).columns == ["model", "model.num_blocks"]


def test_a_group_that_one_row_switched_off_differs(make, tmp_path):
    make("plain")
    folder = make("lists")
    edit(folder / "config.json", lambda record: record.update(coarse={"centroids": "c.npy"}))
    edit(folder / "config.json", lambda record: record["choices"].update(coarse="ivf"))
    edit(folder / "summary.json", lambda record: record.update(overrides=["coarse=ivf", "coarse.centroids=c.npy"]))
    assert differences(read(tmp_path)[0]).columns == ["coarse", "coarse.centroids"]


def test_an_option_that_older_versions_lacked_is_no_difference(make, tmp_path):
    make("old")
    edit(make("new") / "config.json", lambda record: record["recipe"].update(new_option=False))
    found = differences(read(tmp_path)[0])
    assert found.columns == []
    assert "recipe.new_option" not in found.constant


def test_the_line_of_constants_counts_what_it_does_not_say(runs):
    found = differences(runs)
    line = constants_line(found, num_shown=2)
    assert line == f"data=photo_sift, model=qinco2_tiny and {len(found.constant) - 2} more"
    assert "\n" not in constants_line(found, num_shown=1000)
    assert constants_line(found, num_shown=1000).count("=") == len(found.constant)


# --- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_the_best_come_first_and_those_without_a_value_last(runs, name):
    shuffled = random.Random(0).sample(runs, len(runs))
    order = ranked(shuffled, name)
    values = [run.results[name] for run in order if name in run.results]
    assert values == sorted(values, reverse=not METRICS[name].lower_is_better)
    assert all(name not in run.results for run in order[len(values) :])
    assert [run.name for run in ranked(runs, name)] == [run.name for run in order]  # ties too


def test_rows_of_a_data_set_stay_together(make, tmp_path):
    for name in "abcd":
        folder = make(name, num_steps=4 if name in "ab" else 8)
        if name in "bd":
            edit(folder / "config.json", lambda record: record["choices"].update(data="bigann"))
    rows = ranked(read(tmp_path)[0], "best_val_mse")
    assert [(run.data, run.name) for run in rows] == [
        ("bigann", "d"), ("bigann", "b"), ("photo_sift", "c"), ("photo_sift", "a"),
    ]  # fmt: skip


def test_an_unknown_metric_is_answered_with_all_of_them():
    with pytest.raises(
        ValueError, match=r"unknown metric ms \(did you mean mse\?\); choose from: best_val_mse, bytes_"
    ):
        check_metric("ms")


# --- forms --------------------------------------------------------------------------------------------------------


def test_the_csv_holds_every_option_and_result_as_recorded(runs):
    rows = list(csv.DictReader(io.StringIO(csv_table(runs))))
    assert len(rows) == len(runs)
    for run, row in zip(runs, rows, strict=True):
        assert (row["name"], row["folder"]) == (run.name, str(run.folder))
        for name, value in run.results.items():
            assert float(row[name]) == value
        for name, value in run.options.items():
            assert row[name] == (value if isinstance(value, str) else json.dumps(value))


def test_markdown_has_all_rows_and_columns(runs):
    comparison = Comparison.of(runs, "mse")
    header, rule, *rows = markdown_table(comparison).splitlines()
    assert len(rows) == len(runs)
    assert {line.count("|") for line in (header, rule, *rows)} == {header.count("|")}
    assert header.startswith("| run | num_steps | beam_size | lr | seed | MSE database | MSE validation | R@1 % |")
    best = runs[0]
    assert rows[0].startswith(f"| {best.name} | 8 | 1 |")
    assert f"| {best.results['mse']:,.0f} |" in rows[0]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_terminal_of_any_width_shows_whole_cells(runs, width):
    lines = _lines(Comparison.of(runs, "mse"), width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    text = "\n".join(lines)
    for run in runs:
        assert f"{run.results.get('mse', run.results['best_val_mse']):,.0f}" in text
    assert ("Not shown: " in text) == (width < 200)


def test_a_terminal_keeps_the_column_it_is_sorted_by(runs):
    lines = _lines(Comparison.of(runs, "parameters"), 75)
    assert any("parameters" in line for line in lines if not line.startswith("Not shown"))


def test_many_options_are_a_table_of_their_own(make, tmp_path):
    for number in range(3):
        values = {f"an_option_with_a_long_name_{place}": f"{number}{place}" for place in range(12)}
        edit(make(f"run{number}") / "config.json", lambda record, v=values: record["recipe"].update(v))
    lines = _lines(Comparison.of(read(tmp_path)[0], "mse"), 80)
    assert max(map(len, lines)) <= 80
    [says] = [line for line in lines if line.startswith("What differs")]
    columns = sum(line.count("long_name_") for line in lines)
    assert says == f"What differs ({12 - columns} more columns in compare.html):"


def test_a_long_name_keeps_its_end(make, tmp_path):
    make("a" * 60 + "/run_of_interest")
    make("b")
    lines = _lines(Comparison.of(read(tmp_path)[0], "mse"), 120)
    assert any("…" in line and "/run_of_interest " in line for line in lines)


def test_a_long_list_is_cut_and_counted(make, tmp_path):
    for number in range(MAX_TERMINAL_ROWS + 5):
        make(f"run{number}")
    lines = _lines(Comparison.of(read(tmp_path)[0], "mse"), 120)
    assert lines[-1] == "5 more rows in compare.html"
    assert sum(line.startswith("run") for line in lines) == MAX_TERMINAL_ROWS + 1  # and the header
