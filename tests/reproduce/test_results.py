"""results.json: every number of every task's file once, with the folder that it comes from."""

import json
import os
from pathlib import Path

import pytest

from qinco_lit.reproducing.results import collect, write_results
from qinco_lit.reproducing.runner import Stop
from tests.reproduce.tiny_scale import runner_of


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A runner with everything done, by the stub."""
    runner = runner_of(tmp_path_factory.mktemp("records") / "output", studies=True)
    runner.run(Stop())
    return runner


def _lines(runner, section):
    """Records of a section: method, bytes, metric, value, settings, run."""
    return [
        (each["method"], each["num_bytes"], each["metric"], each["value"], each["settings"], each["run"])
        for each in collect(runner.tasks, runner.output)
        if each["section"] == section
    ]


SEARCHED = {"beam_size": 8, "candidate_budget": 16}
BIG, TINY = "d/Big-8B-s0/evaluate", "d/Tiny-8B-s0/evaluate"


def test_main_table_with_the_baselines_of_the_first_method(done):
    ours, rq = SEARCHED | {"num_database": 99}, {"num_training_rows": 7, "kmeans_iterations": 25}
    assert _lines(done, "main") == [
        ("Big one", 8, "mse", 10.0, ours, BIG),
        ("Big one", 8, "recall_at_1", 0.25, ours, BIG),
        ("Big one", 8, "recall_at_10", 0.5, ours, BIG),  # recall_at_100 is None: left out
        ("RQ", 8, "mse", 20.0, rq, BIG),
        ("RQ", 8, "recall_at_1", 0.25, rq, BIG),
        ("RQ", 8, "recall_at_10", 0.5, rq, BIG),
        ("LSQ", 8, "mse", 21.0, rq, BIG),
        ("LSQ", 8, "recall_at_1", 0.25, rq, BIG),
        ("LSQ", 8, "recall_at_10", 0.5, rq, BIG),
        ("Tiny", 8, "mse", 10.0, ours, TINY),
        ("Tiny", 8, "recall_at_1", 0.25, ours, TINY),
        ("Tiny", 8, "recall_at_10", 0.5, ours, TINY),
    ]


def test_times(done):
    lines = _lines(done, "speed")
    codec, faiss = SEARCHED | {"device": "cpu", "torch": 1, "faiss": 2}, {"device": "cpu", "torch": 1, "faiss": 2}
    assert ("Tiny", 8, "encode_us_per_vector", 1000.0, codec, TINY) in lines
    assert ("Tiny", 8, "decode_us_per_vector", 250.0, codec, TINY) in lines
    assert ("RQ", 8, "encode_us_per_vector", 1000.0, faiss, BIG) in lines
    assert ("Tiny", 8, "train_s", 12.0, {"epochs": 1}, "d/Tiny-8B-s0/train") in lines
    assert ("Tiny", 8, "parameters", 1000.0, {}, "d/Tiny-8B-s0/train") in lines
    assert len(lines) == 2 * (2 + 2) + 2 * 2


def test_run_time_study(done):
    run, settings = "d/Tiny-8B-s0/run_time/A4-B2", SEARCHED | {"num_database": 99}
    assert _lines(done, "run_time") == [
        ("Tiny", 8, "mse", 10.0, settings, run),
        ("Tiny", 8, "recall_at_1", 0.25, settings, run),
        ("Tiny", 8, "recall_at_10", 0.5, settings, run),
        ("Tiny", 8, "encode_us_per_vector", 1000.0, settings, run),
    ]


def test_dynamic_rate_is_the_error_of_prefixes(done):
    whole = SEARCHED | {"encoded_bytes": 8}
    assert [line for line in _lines(done, "dynamic_rate") if line[0] == "Tiny"] == [
        ("Tiny", 4, "mse", 20.0, whole, TINY),
        ("Tiny", 8, "mse", 10.0, whole, TINY),
    ]


def test_ablation_without_evaluations(done):
    assert _lines(done, "ablation") == [
        ("all ingredients", 8, "validation_mse", 5.5, {}, "d/ablation-base-8B-s0/train"),
        ("no beam", 8, "validation_mse", 5.5, {}, "d/ablation-beam-8B-s0/train"),
    ]


def test_ablation_with_evaluations(tmp_path):
    from tests.reproduce.tiny_scale import scale_values

    ablation = scale_values(studies=True)["ablation"] | {"evaluate": ["beam_size=8"]}
    runner = runner_of(tmp_path / "output", main=None, ablation=ablation)
    runner.run(Stop())
    assert [line[:4] for line in _lines(runner, "ablation") if line[0] == "no beam"] == [
        ("no beam", 8, "validation_mse", 5.5),
        ("no beam", 8, "mse", 10.0),
        ("no beam", 8, "recall_at_1", 0.25),
        ("no beam", 8, "recall_at_10", 0.5),
    ]


def test_search_is_the_points_on_a_front(done):
    run = "d/ivf-Tiny-16B-s0/search"
    ours = {"engine": "qinco", "num_lists": 4, "nprobe": 2, "num_additive": 9, "num_pairwise": 3}
    faiss = {"engine": "ivf_pq", "num_lists": 4, "nprobe": 2}
    assert _lines(done, "search") == [
        ("Tiny", 16, "recall_at_1", 0.5, ours, run),
        ("Tiny", 16, "queries_per_s", 100.0, ours, run),
        ("IVF-PQ", 16, "recall_at_1", 0.1, faiss, run),
        ("IVF-PQ", 16, "queries_per_s", 900.0, faiss, run),
    ]


def test_decoders_by_error_and_by_recall_of_the_point_with_all_stages(done):
    errors, recalls = _lines(done, "pairwise")[:3], _lines(done, "pairwise")[3:]
    facts = {"num_lists": 4, "num_training": 6}
    assert errors == [
        ("Tiny", 16, "mse", mse, {"decoder": decoder, **facts}, "d/ivf-Tiny-16B-s0/index")
        for decoder, mse in {"additive": 3.0, "pairwise": 2.0, "full": 1.0}.items()
    ]
    assert [(line[3], line[4]["decoder"]) for line in recalls] == [(0.2, "additive"), (0.3, "pairwise"), (0.5, "full")]
    assert {line[5] for line in recalls} == {"d/ivf-Tiny-16B-s0/search"}


def test_a_damaged_file_costs_its_own_records(done, tmp_path, caplog):
    runner = runner_of(tmp_path / "output")
    runner.run(Stop())
    metrics = runner.output / TINY / "metrics.json"
    metrics.write_text('{"codec": {}, "methods": {}}')
    assert {each["run"] for each in collect(runner.tasks, runner.output)} == {
        "d/Tiny-8B-s0/train", "d/Big-8B-s0/train", BIG,
    }  # fmt: skip
    assert caplog.messages == [f"{metrics} left out: KeyError 'codec'"]


def test_results_of_what_is_done_only(tmp_path, monkeypatch):
    reports: list[tuple[dict, Path]] = []
    monkeypatch.setattr(
        "qinco_lit.reports.iclr.write_report", lambda results, folder: reports.append((results, folder))
    )
    runner = runner_of(tmp_path / "output", "Tiny")
    runner.run(Stop())
    summary = runner.output / "d/Tiny-8B-s0/train/summary.json"
    values = json.loads(summary.read_text())
    before = summary.stat()
    summary.write_text(json.dumps(values | {"git_revision": "abc"}))
    os.utime(summary, ns=(before.st_atime_ns, before.st_mtime_ns))
    write_results(
        runner.tasks,
        runner.outcomes(),
        runner.output,
        scale_name="tiny",
        hardware="a stub",
        data_dir="QINCO_DATA='my sets'",
    )
    results = json.loads((runner.output / "results.json").read_text())
    assert reports == [(results, runner.output)]
    assert (results["scale"], results["estimates_for"]) == ("tiny", "a stub")
    assert set(results["environment"]) >= {"versions", "git_revision", "hardware"}
    assert {each["run"] for each in results["records"]} == {"d/Tiny-8B-s0/train", TINY}
    revisions = {each["run"]: each["git_revision"] for each in results["records"]}
    assert revisions == {"d/Tiny-8B-s0/train": "abc", TINY: None}
    assert all((runner.output / each["run"]).is_dir() for each in results["records"])
    assert [(task["name"], task["state"], task["wall_s"]) for task in results["tasks"] if task["state"] != "done"] == [
        ("d/Big-8B-s0/train", "skipped", None),
        ("d/Big-8B-s0/evaluate", "skipped", None),
    ]
    trained = next(task for task in results["tasks"] if task["name"] == "d/Tiny-8B-s0/train")
    assert trained == {
        "name": "d/Tiny-8B-s0/train",
        "section": "main",
        "sections": ["main"],
        "state": "done",
        "command": "QINCO_DATA='my sets' qinco train data=x model=tiny seed=0 logger=none "
        f"hydra.run.dir={runner.output}/d/Tiny-8B-s0/train",
        "folder": "d/Tiny-8B-s0/train",
        "cost_s": 10.0,
        "wall_s": 12.0,
        "reason": "",
        "git_revision": "abc",
    }
