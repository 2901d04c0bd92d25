"""What is read from folders: everything that is there, once, and a reason for everything that is not."""

import json
import math
import shutil
from pathlib import Path

import pytest

from qinco_lit.evaluation import evaluate
from qinco_lit.reports.compare.columns import differences, value_text
from qinco_lit.reports.compare.records import (
    EVALUATION,
    KNOWN_VERSIONS,
    SEARCH,
    Curve,
    find_folders,
    flat,
    read_training,
)
from qinco_lit.search.points import comparison
from tests.compare.conftest import edit, read, search_record


def test_what_this_version_writes_can_be_read():
    assert evaluate.SCHEMA_VERSION in KNOWN_VERSIONS[EVALUATION]
    assert comparison.SCHEMA_VERSION in KNOWN_VERSIONS[SEARCH]


def test_options_are_flat_and_an_absent_group_is_none():
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}) == {"a.b": 1, "a.c.d": [2], "e": None, "f": None}


def test_runs_from_before_choices_were_recorded_have_those_that_were_typed(make):
    folder = make("run")
    edit(folder / "config.json", lambda record: record.pop("choices"))
    edit(folder / "summary.json", lambda record: record.update(overrides=["model=qinco2_m", "+model.num_steps=4"]))
    [run], _ = read(folder)
    assert run.choices == {"model": "qinco2_m"}
    assert run.typed == {"model", "model.num_steps"}
    assert run.options["coarse"] == "none"


def test_folders_are_found_once_however_they_are_given(make, tmp_path):
    make("sweep/0", evaluated=True)
    make("sweep/1")
    runs, warnings = read(tmp_path)
    assert warnings == []
    assert sorted(run.name for run in runs) == ["0", "1"]
    again, _ = read(tmp_path / "sweep" / "0", tmp_path, tmp_path / "sweep" / ".." / "sweep")
    assert sorted(run.name for run in again) == ["0", "1"]


@pytest.mark.parametrize("name", ["codec", "checkpoints", "wandb"])
def test_a_folder_of_users_may_have_the_name_of_a_part_of_a_run(make, tmp_path, name):
    make(f"{name}/run")
    assert len(find_folders([tmp_path])) == 1


def test_linked_runs_are_found_once_and_loops_end(make, tmp_path):
    make("runs/a")
    make("runs/b")
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "linked").symlink_to(tmp_path / "runs" / "a")
    (sweep / "again").symlink_to(tmp_path / "runs" / "a")
    (sweep / "loop").symlink_to(sweep)
    (sweep / "nowhere").symlink_to(tmp_path / "missing")
    assert find_folders([sweep]).folders["summary.json"] == [sweep / "again"]
    assert len(find_folders([sweep, tmp_path])) == 2


@pytest.mark.parametrize("hidden", [".hydra", "wandb", "codec", "checkpoints"])
def test_what_lies_inside_a_run_is_no_run(make, tmp_path, hidden):
    make("run")
    make(f"run/{hidden}/copy")
    assert len(find_folders([tmp_path])) == 1


def test_results_are_those_of_the_files(make):
    folder = make("run", evaluated=True)
    [run], _ = read(folder)
    summary = json.loads((folder / "summary.json").read_text())
    figures = json.loads((folder / "evaluate" / "metrics.json").read_text())["methods"]["codec"]
    for name, value in run.results.items():
        assert value == (summary | figures)[name]
    assert run.rates == tuple(enumerate(figures["mse_per_step"], 1))  # 4 steps, 4 bytes
    assert run.options["recipe.lr"] == 0.004
    assert run.options["model"] == "qinco2_tiny"
    assert run.state == "finished"


def test_an_evaluation_joins_its_training_wherever_both_were_moved(make, tmp_path):
    made = make("a/run", evaluated=True)
    (tmp_path / "b" / "elsewhere").mkdir(parents=True)
    made.rename(moved := tmp_path / "b" / "elsewhere" / "run")
    [run], warnings = read(tmp_path)
    assert warnings == []
    assert run.evaluated
    assert run.results["mse"] > 0 < run.results["best_val_mse"]
    assert run.folder == moved


def test_an_evaluation_inside_of_its_run_joins_it_under_any_name(make, tmp_path):
    make("run", evaluated=True).rename(tmp_path / "renamed")
    [run], _ = read(tmp_path / "renamed")
    assert (run.name, run.evaluated, run.results["epochs"]) == ("renamed", True, 50)


def test_an_evaluation_joins_a_training_that_was_not_asked_for(make, tmp_path):
    folder = make("run", evaluated=True)
    shutil.move(folder / "evaluate", tmp_path / "results")
    [run], _ = read(tmp_path / "results")
    assert run.results["parameters"] == 204_800 * 4
    assert run.folder == tmp_path / "results"


def test_an_evaluation_joins_the_training_beside_it_not_one_of_that_name_here(make, tmp_path, monkeypatch):
    make("copied/runs/a", evaluated=True)
    make("runs/a")
    monkeypatch.chdir(tmp_path)
    metrics = tmp_path / "copied" / "runs" / "a" / "evaluate" / "metrics.json"
    edit(metrics, lambda record: record["codec"].update(path="runs/a/codec"))
    runs, _ = read(tmp_path)
    assert {run.name: run.evaluated for run in runs} == {"copied/runs": True, "runs": False}


def test_an_evaluation_of_weights_that_training_replaced_stands_alone(make):
    folder = make("run", evaluated=True)
    edit(folder / "evaluate" / "metrics.json", lambda record: record["codec"].update(weights_sha256="aa"))
    edit(folder / "codec" / "config.json", lambda record: record.update(weights_sha256="aa"))
    [run], warnings = read(folder)
    assert (run.evaluated, "epochs" in run.results, warnings) == (True, True, [])
    edit(folder / "codec" / "config.json", lambda record: record.update(weights_sha256="bb"))
    runs, warnings = read(folder)
    assert [(run.state, "epochs" in run.results) for run in runs] == [("evaluated", False), ("finished", True)]
    assert warnings == [
        f"{folder / 'evaluate'} stands alone: {folder} has another codec by now, the training went on since"
    ]


def test_weights_newer_than_an_old_evaluation_are_told(make):
    folder = make("run", evaluated=True)
    (folder / "codec" / "weights.safetensors").touch()
    created = folder / "evaluate" / "metrics.json"
    edit(created, lambda record: record.update(created="2999-01-01T00:00:00+0000"))
    assert read(folder)[1] == []
    edit(created, lambda record: record.update(created="2020-01-01T00:00:00+0000"))
    [run], warnings = read(folder)
    assert run.evaluated
    assert warnings == [
        f"{folder / 'evaluate'}: {folder / 'codec'} is newer than this evaluation of it: the training may have gone on"
    ]


def test_a_codec_of_another_model_is_not_joined(make):
    folder = make("run", evaluated=True)
    edit(folder / "evaluate" / "metrics.json", lambda record: record["codec"]["model"].update(num_blocks=7))
    runs, _ = read(folder)
    assert sorted((run.state, run.options["model.num_blocks"]) for run in runs) == [("evaluated", 7), ("finished", 2)]


def test_each_evaluation_of_a_training_is_a_row_of_its_own(make):
    folder = make("run", evaluated=True)
    shutil.copytree(folder / "evaluate", folder / "wide")
    edit(folder / "wide" / "metrics.json", lambda record: record["codec"].update(beam_size=32))
    runs, _ = read(folder)
    assert {run.name: run.options["evaluate.beam_size"] for run in runs} == {"evaluate": 8, "wide": 32}
    assert all(run.results["epochs"] == 50 for run in runs)
    assert differences(runs).columns == ["evaluate.beam_size"]


def test_encodings_with_fewer_codes_are_rows_of_their_own(make):
    folder = make("run", evaluated=True)
    metrics = folder / "evaluate" / "metrics.json"
    edit(metrics, lambda record: record.update(schema_version=4, rates=None))
    edit(metrics, lambda record: record["codec"].update(num_steps=4))
    assert differences(read(folder)[0]).columns == []
    shutil.copytree(folder / "evaluate", folder / "short")
    half = {"bytes_per_vector": 2.0, "num_steps": 2, "mse": 4e4, "mse_per_step": [6e4, 4e4]}
    edit(folder / "short" / "metrics.json", lambda record: record["codec"].update(num_steps=2))
    edit(folder / "short" / "metrics.json", lambda record: record["methods"]["codec"].update(half))
    runs, warnings = read(folder)
    assert warnings == []
    assert {run.name: run.options["evaluate.num_steps"] for run in runs} == {"evaluate": 4, "short": 2}
    [short] = [run for run in runs if run.name == "short"]
    assert (short.results["bytes_per_vector"], short.rates) == (2, ((1, 6e4), (2, 4e4)))
    assert differences(runs).columns == ["evaluate.num_steps"]


@pytest.mark.parametrize("evaluated", [True, False])
def test_rows_are_named_by_what_a_model_is_made_of(make, evaluated):
    folder = make("run", evaluated=evaluated)
    kind = {"num_parts": 2, "opq": True, "concat_rank": 64, "outer_skip": False}
    edit(folder / "config.json", lambda record: record["model"].update(kind))
    if evaluated:
        edit(folder / "codec" / "config.json", lambda record: record["model"].update(kind))
        edit(folder / "evaluate" / "metrics.json", lambda record: record["codec"]["model"].update(kind))
    [run], _ = read(folder)
    assert (run.method, run.evaluated) == ("OPQ-QINCo1-LR", evaluated)


def test_baselines_from_one_cache_are_one_row(make, tmp_path):
    for name in ("x", "y"):
        folder = make(name, evaluated=True)
        baseline = {"bytes_per_vector": 4, "mse": 5e4, "mse_per_step": None, "recall_at_1": 0.3}
        edit(folder / "evaluate" / "metrics.json", lambda record, b=baseline: record["methods"].update(opq=b))
    runs, _ = read(tmp_path)
    assert sorted((run.kind, run.name) for run in runs) == [
        ("baseline", "OPQ, 4 bytes"),
        ("codec", "x"),
        ("codec", "y"),
    ]


def test_rows_of_a_search(tmp_path):
    record = search_record()
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "search.json").write_text(json.dumps(record))
    runs, _ = read(tmp_path)
    ours, theirs = runs
    assert (ours.method, theirs.method) == ("QINCo2 (8+2 B)", "IVF-PQ (8 B)")
    assert (ours.results["recall_at_1"], ours.results["queries_per_s"]) == (0.62, 100.0)
    assert ours.results["bytes_per_vector"] == 10
    assert ours.fronts[1] == ((100.0, 0.62), (500.0, 0.6), (900.0, 0.5))


# --- learning curves ---------------------------------------------------------------------------------------------


def _write_reports(folder: Path, reports: list[dict[str, float]], tail: str = "") -> Curve:
    lines = "".join(json.dumps(report) + "\n" for report in reports)
    (folder / "metrics.jsonl").write_text(lines + tail)
    warnings: list[str] = []
    curve = read_training(folder, warnings.append).curve
    assert warnings == []
    return curve


def _report(epoch: int, time_s: float, mse: float) -> dict[str, float]:
    return {"step": 10 * epoch, "time_s": time_s, "val/mse": mse, "epoch": epoch}


def test_a_step_that_was_trained_again_counts_once_and_later(make):
    reports = [_report(0, 0.0, 9.0), _report(1, 10.0, 8.0), _report(1, 20.0, 7.0), _report(2, 30.0, 6.0)]
    assert _write_reports(make("run"), reports) == Curve((1.0, 2.0, 3.0), (0.0, 20.0, 30.0), (9.0, 7.0, 6.0))


def test_the_pause_before_a_resumption_is_no_training_time(make):
    times = [0.0, 10.0, 20.0, 86_420.0, 86_430.0]
    curve = _write_reports(make("run"), [_report(epoch, time, 9.0 - epoch) for epoch, time in enumerate(times)])
    assert curve.seconds == (0.0, 10.0, 20.0, 30.0, 40.0)


def test_a_last_line_cut_off_by_a_kill_is_no_fault(make):
    reports = [_report(epoch, 10.0 * epoch, 9.0 - epoch) for epoch in range(3)]
    assert _write_reports(make("run"), reports, tail='{"step": 40, "val/m') == _write_reports(make("run2"), reports)


def test_a_run_that_has_not_ended_is_as_far_as_its_reports(make):
    folder = make("run")
    edit(folder / "summary.json", lambda record: [record.pop(name) for name in ("best_val_mse", "epochs", "wall_s")])
    edit(folder / "summary.json", lambda record: record.update(state="running"))
    _write_reports(folder, [_report(epoch, 10.0 * epoch, mse) for epoch, mse in enumerate((9.0, 7.0, 8.0))])
    [run], _ = read(folder)
    assert (run.state, run.results["epochs"], run.results["best_val_mse"]) == ("running", 3, 7.0)
    assert "wall_s" not in run.results


def test_numbers_that_are_none_are_left_out(make):
    folder = make("run")
    edit(folder / "summary.json", lambda record: record.update(best_val_mse=float("nan"), wall_s=None))
    (folder / "metrics.jsonl").write_text('{"step": 1, "time_s": 0, "val/mse": NaN, "epoch": 0}\n')
    [run], warnings = read(folder)
    assert warnings == []
    assert run.curve == Curve()
    assert not {"best_val_mse", "wall_s"} & set(run.results)


def test_an_epoch_that_is_none_or_a_time_that_is_none_does_not_disturb_the_others(make):
    folder = make("run")
    reports = [_report(0, 0.0, 9.0), _report(1, float("nan"), 8.0) | {"epoch": float("nan")}, _report(2, 20.0, 7.0)]
    assert _write_reports(folder, reports).epochs == (1.0, 2.0, 3.0)
    assert all(map(math.isfinite, _write_reports(folder, reports).seconds))


def test_a_group_switched_off_is_null_and_an_unknown_option_is_empty(make):
    [run], _ = read(make("run"))
    assert value_text(run, "coarse.centroids") == "null"
    assert value_text(run, "recipe.from_the_future") == ""
