"""Folders that are broken: each is named with a reason in one line, and the others go on."""

import os
from pathlib import Path

import pytest

from qinco_lit.reports.compare.records import Curve
from tests.compare.conftest import edit, read

_FORM = "its record has another form than this version writes"


def _one_reason(make, folder: Path) -> str:
    make("whole")
    runs, warnings = read(folder.parent)
    assert [run.name for run in runs] == ["whole"]
    [warning] = warnings
    assert "\n" not in warning
    assert warning.startswith(f"left out {folder}")
    return warning.removeprefix(f"left out {folder}").removeprefix(": ")


def test_half_a_summary(make):
    folder = make("run")
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text[: len(text) // 2])
    assert _one_reason(make, folder).startswith("summary.json is no JSON (")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("summary.json", "", "summary.json is empty"),
        ("summary.json", "[1]", "summary.json holds no mapping"),
        ("summary.json", '{"schema_version": 9}', "summary.json has the unknown schema_version 9 (known: none, 1)"),
        ("config.json", None, "it has no config.json"),
        ("summary.json", None, "training without summary.json, it has not got that far"),
    ],
)
def test_a_broken_run_is_named_and_the_others_go_on(make, name, content, reason):
    folder = make("run")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    assert _one_reason(make, folder) == reason


_DEEP = '{"a": ' * 100_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_DEEP, "summary.json is nested too deeply"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "summary.json is nested too deeply"),
        (None, "summary.json is no file"),
    ],
)
def test_an_odd_summary_is_named_and_the_others_go_on(make, content, reason):
    folder = make("run")
    (folder / "summary.json").unlink()
    if content is None:
        os.mkfifo(folder / "summary.json")  # reading it would wait for ever
    else:
        (folder / "summary.json").write_text(content)
    assert _one_reason(make, folder) == reason


def test_a_number_of_hundreds_of_digits_is_no_result(make):
    folder = make("run")
    edit(folder / "summary.json", lambda record: record.update(parameters=10**400))
    edit(folder / "config.json", lambda record: record["model"].update(num_steps=10**400))
    [run], warnings = read(folder)
    assert (run.results["epochs"], warnings) == (50, [])
    assert not {"parameters", "bytes_per_vector"} & set(run.results)


def test_reports_that_cannot_be_read_are_told(make):
    folder = make("run")
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    [run], warnings = read(folder)
    assert (run.curve, warnings) == (Curve(), [f"{folder}: left out metrics.jsonl: no file"])


def test_a_training_whose_evaluation_is_broken_is_still_there(make):
    folder = make("run", evaluated=True)
    edit(folder / "evaluate" / "metrics.json", lambda record: record.pop("data"))
    [run], warnings = read(folder)
    assert (run.name, run.evaluated, len(warnings)) == ("run", False, 1)


def test_reports_of_another_form_are_no_traceback(make):
    folder = make("run")
    (folder / "metrics.jsonl").write_text('{"step": 1, "time_s": "noon"}\n')
    assert _one_reason(make, folder) == f"{_FORM} (could not convert string to float: 'noon')"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "metrics.json", '{"schema_version": 99}',
            "metrics.json has the unknown schema_version 99 (known: 1, 2, 3, 4)",
        ),
        ("metrics.json", '{"schema_version": 2}', f"{_FORM} (it lacks 'codec')"),
        ("search.json", '{"schema_version": 0}', "search.json has the unknown schema_version 0 (known: 1, 2)"),
        ("search.json", '{"schema_version": 1, "index": 3}', f"{_FORM} (it lacks 'data')"),
        ("points.jsonl", "{}", "search without search.json, it has not got that far"),
    ],
)  # fmt: skip
def test_a_broken_evaluation_or_search_too(make, tmp_path, name, content, reason):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text(content)
    assert _one_reason(make, tmp_path / "run") == reason


def test_broken_lines_in_the_middle_are_counted(make):
    folder = make("run")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[10:12] = ["{oops", _DEEP]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    [run], warnings = read(folder)
    assert warnings == [f"{folder}: 2 lines of metrics.jsonl are no JSON and left out"]
    assert len(run.curve.mse) >= 48
