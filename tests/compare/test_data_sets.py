"""Rows of unlike data are told apart, those of like data are not."""

import shutil

import pytest

from qinco_lit.reports.compare.columns import differences
from tests.compare.conftest import edit, read


def test_sizes_of_one_data_set_are_told_apart(make, tmp_path):
    for name, size in (("a", 500), ("b", 20_000), ("c", 20_000)):
        folder = make(name, evaluated=True)
        edit(folder / "evaluate" / "metrics.json", lambda record, n=size: record["data"].update(num_database=n))
    make("not_evaluated")
    runs, _ = read(tmp_path)
    assert sorted((run.name, run.data) for run in runs) == [
        ("a", "photo_sift, 500"), ("b", "photo_sift, 20,000"), ("c", "photo_sift, 20,000"),
        ("not_evaluated", "photo_sift"),
    ]  # fmt: skip
    assert {run.data for run in read(tmp_path / "b", tmp_path / "c")[0]} == {"photo_sift"}


@pytest.mark.parametrize(
    ("option", "values", "labels"),
    [
        ("metric", ("l2", "cosine"), ("photo_sift", "photo_sift, cosine")),
        ("size", ("1M", "1B"), ("photo_sift 1M", "photo_sift 1B")),
        ("train", ("x/a.npy", "y/b.npy"), ("photo_sift, a.npy", "photo_sift, b.npy")),
        ("database", ("x/a.npy", "y/a.npy"), ("photo_sift, x/a.npy", "photo_sift, y/a.npy")),
        ("train", ("x/a.npy", "x/a.npy"), ("photo_sift", "photo_sift")),
        ("num_database", ("20000", [1]), ("photo_sift", "photo_sift")),
    ],
)
def test_data_whose_errors_do_not_compare_are_several_data_sets(make, tmp_path, option, values, labels):
    for name, value in zip("ab", values, strict=True):
        folder = make(name)
        edit(folder / "config.json", lambda record, v=value: record["data"].update({option: v}))
    runs, warnings = read(tmp_path)
    assert warnings == []
    assert tuple(run.data for run in sorted(runs, key=lambda run: run.name)) == labels


def test_evaluations_alone_are_told_apart_by_metric_and_files(make, tmp_path):
    for name, facts in {"a": ("l2", "x/a.npy"), "b": ("cosine", "x/a.npy"), "c": ("cosine", "b.npy")}.items():
        folder = make(name, evaluated=True)
        shutil.move(folder / "evaluate", tmp_path / "evaluations" / name)
        shutil.rmtree(folder)
        record = tmp_path / "evaluations" / name / "metrics.json"
        edit(record, lambda record, f=facts: record["data"].update(metric=f[0]))
        edit(record, lambda record, f=facts: record.update(command=f"qinco evaluate data.database={f[1]}"))
        baseline = {"bytes_per_vector": 4, "mse": 5e4, "mse_per_step": None}
        edit(record, lambda record, b=baseline: record["methods"].update(opq=b))
    runs, _ = read(tmp_path)
    labels = {run.name: run.data for run in runs if run.kind == "codec"}
    assert labels == {"a": "photo_sift", "b": "photo_sift, cosine, a.npy", "c": "photo_sift, cosine, b.npy"}
    assert sorted(labels.values()) == sorted(run.data for run in runs if run.kind == "baseline")
    assert differences(runs).columns == ["evaluate.metric", "evaluate.database"]


def test_trainings_go_by_the_name_that_evaluations_give_their_data(make, tmp_path):
    for name in "ab":
        folder = make(name, evaluated=name == "a")
        edit(folder / "config.json", lambda record: record["data"].update(name="bigann", size="1M"))
    edit(tmp_path / "a" / "evaluate" / "metrics.json", lambda record: record["data"].update(name="bigann 1M"))
    assert {run.data for run in read(tmp_path)[0]} == {"bigann 1M"}


def test_baselines_stay_with_the_codec_they_were_measured_beside(make, tmp_path):
    for name in "ab":
        folder = make(name, evaluated=True)
        edit(folder / "config.json", lambda record, n=name: record["data"].update(train=f"{n}.npy"))
        baseline = {"bytes_per_vector": 4, "mse": 5e4, "mse_per_step": None}
        edit(folder / "evaluate" / "metrics.json", lambda record, b=baseline: record["methods"].update(opq=b))
    runs, _ = read(tmp_path)
    assert sorted((run.data, run.kind) for run in runs) == [
        (f"photo_sift, {name}.npy", kind) for name in "ab" for kind in ("baseline", "codec")
    ]
