"""`qinco_lit.evaluate`: the figures of `qinco evaluate`, from arrays, files and VectorFiles, and nothing on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qinco_lit as ql
from qinco_lit.vectors import write_vectors
from tests.evaluate.conftest import Data, codec_dir, run

__all__ = ["codec_dir", "run"]  # a small codec, and `qinco evaluate` with it

CHANGES = {"encode_vectors_per_s", "decode_vectors_per_s", "train_s", "measured_at"}


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the time."""
    methods = {
        name: {key: value for key, value in figures.items() if key not in CHANGES}
        for name, figures in record["methods"].items()
    }
    return {**record, "methods": methods, "created": None}


@pytest.fixture
def data() -> Data:
    data = Data()
    data.prepare_data()
    data.setup("test")
    return data


def test_it_returns_what_the_command_writes(run: Callable[..., Any], codec_dir: Path, tmp_path: Path, data: Data):
    run(baselines=["pq"], beam_size=2)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    given = {"baselines": ["pq"], "train": data.train_vectors, "beam_size": 2, "name": "normal", "progress": False}
    ours = ql.evaluate(codec_dir, data.database, data.queries, ground_truth=data.ground_truth, **given)
    assert _lasting(json.loads(json.dumps(ours))) == _lasting(written)
    in_memory = ql.Codec(ql.Codec.load(codec_dir).quantizer)
    there = ql.evaluate(in_memory, data.database, data.queries, **given)
    assert there["codec"].pop("path") is None
    assert there["codec"].items() <= ours["codec"].items()
    assert _lasting(there)["methods"] == _lasting(ours)["methods"]


@pytest.mark.parametrize("kind", ["torch", "lists", "npy", "fvecs", "opened"])
def test_vectors_of_every_kind_give_the_same_figures(codec_dir: Path, tmp_path: Path, data: Data, kind: str):
    def given(x: Any) -> Any:
        path = tmp_path / f"{len(x)}.{'fvecs' if kind == 'fvecs' else 'npy'}"
        write_vectors(path, x)
        made = {
            "torch": lambda: torch.from_numpy(x),
            "lists": lambda: x.tolist(),
            "opened": lambda: ql.open_vectors(path),
        }
        return made.get(kind, lambda: path)()

    expected = ql.evaluate(codec_dir, data.database, data.queries)
    found = ql.evaluate(codec_dir, given(data.database), given(data.queries), ground_truth=data.ground_truth)
    assert _lasting(found)["methods"] == _lasting(expected)["methods"]


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_other_metrics_compare_as_the_command_does(
    run: Callable[..., Any], codec_dir: Path, data: Data, metric: str, monkeypatch: pytest.MonkeyPatch
):
    record = run(data=Data(metric=metric))
    ours = ql.evaluate(codec_dir, data.database, data.queries, metric=metric, progress=False)
    for name in ("mse", "recall_at_1", "recall_at_10", "recall_at_100"):
        assert ours["methods"]["codec"][name] == pytest.approx(record["methods"]["codec"][name], rel=1e-5)


def test_nothing_is_written_printed_or_left_changed(
    codec_dir: Path, tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    codec, threads = ql.Codec.load(codec_dir), torch.get_num_threads()
    ql.evaluate(codec, data.database, baselines=["rq"], train=data.train_vectors, rate="all", num_threads=1)
    assert list((tmp_path / "empty").iterdir()) == []
    assert torch.get_num_threads() == threads
    assert capfd.readouterr().out == ""


def test_rates_are_those_of_the_command(run: Callable[..., Any], codec_dir: Path, data: Data):
    record, ours = run(rate="all"), ql.evaluate(codec_dir, data.database, data.queries, rate="all")
    two = ql.Codec.load(codec_dir).truncated(2)
    alone = ql.evaluate(two, data.database)["codec"]
    two.truncated_from = None  # as if it had been trained so
    dedicated = ql.evaluate(codec_dir, data.database, data.queries, rate=[2], dedicated=[two])["rates"]
    assert dedicated["points"][0]["dedicated"]["mse"] == dedicated["points"][0]["encoded"]["mse"]
    assert dedicated["dedicated"][0]["weights_sha256"] == alone["weights_sha256"] != ours["codec"]["weights_sha256"]
    for point, same in zip(ours["rates"]["points"], record["rates"]["points"], strict=True):
        assert point["prefix"] == same["prefix"]
        assert point["encoded"]["mse"] == same["encoded"]["mse"]


def _broken(rows: Any) -> Any:
    rows = rows.copy()
    rows[3, 1] = np.nan
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baselines": ["pq"]}, r"baselines=\['pq'\] are trained: give train=, the vectors to train them on"),
        ({"baselines": ["qp"], "train": np.zeros((9, 6))}, r"unknown baseline qp; choose from: lsq, opq, pq, rq"),
        ({"metric": "l1"}, r"metric=l1: give one of l2, ip, cosine"),
        ({"queries": None, "ground_truth": [[0]]}, r"ground_truth is given without queries: give both"),
        ({"database": np.zeros((9, 4))}, r"\S*codec encodes vectors of dimension 6, database has 4"),
        ({"queries": np.zeros((9, 5))}, r"\S*codec encodes vectors of dimension 6, queries has 5"),
        ({"train": np.zeros((9, 5))}, r"\S*codec encodes vectors of dimension 6, train has 5"),
        ({"database": np.zeros(6)}, r"database has shape \(6,\): give vectors \(n, dim\)"),
        ({"database": np.zeros((9, 6), int)}, r"database: vectors of dtype int64 are not supported: .*"),
        ({"ground_truth": [[0]] * 29}, r"ground_truth: ground truth of 29 queries, there are 30: .*"),
        ({"ground_truth": [0] * 30}, r"ground_truth: ground truth of shape \(30,\): give ids \(queries, neighbours\)"),
        ({"ground_truth": [[250]] * 30}, r"ground_truth: id 250 of query 0 is outside of the database of 250 rows: .*"),
        ({"ground_truth": [[0.5]] * 30}, r"ground_truth: ground truth holds float64, expected integer ids: .*"),
        ({"queries": _broken}, r"queries: vector 3 holds NaN or infinity"),
        ({"database": _broken, "queries": None}, r"database vector 3 holds NaN or infinity"),
        ({"num_steps": 9}, r"num_steps=9: \S*codec has 3 codes; give 1 to 3"),
        ({"batch_size": 0}, r"batch_size=0: give at least 1"),
        ({"device": "gpu"}, r"unknown device gpu; choose from: auto, cpu, cuda, cuda:N"),
    ],
)
def test_mistakes_are_one_line(codec_dir: Path, data: Data, change: dict[str, Any], message: str):
    given = {"database": data.database, "queries": data.queries}
    change = {name: value(given[name]) if callable(value) else value for name, value in change.items()}
    with pytest.raises(ValueError, match=f"^{message}$"):
        ql.evaluate(codec_dir, **{**given, **change}, progress=False)


def test_a_codec_in_memory_has_its_own_device_and_precision(codec_dir: Path, data: Data):
    codec = ql.Codec.load(codec_dir, precision="float32")
    with pytest.raises(ValueError, match=r"^precision=bfloat16: this codec has float32: give its folder, .*$"):
        ql.evaluate(codec, data.database, precision="bfloat16")
    with pytest.raises(
        ValueError, match=r"^device=cuda: this (codec is on cpu; codec.to\('cuda'\) moves it|machine has 0 CUDA .*)$"
    ):
        ql.evaluate(codec, data.database, device="cuda")
    with pytest.raises(ValueError, match=r"^unknown device gpu; choose from: auto, cpu, cuda, cuda:N$"):
        ql.evaluate(codec, data.database, device="gpu")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ql.evaluate(codec_dir / "nowhere", data.database)
