import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32, UInt8

from qinco_lit.codec import Codec
from qinco_lit.devices import num_threads_in_use
from qinco_lit.evaluation.evaluate import SCHEMA_VERSION
from qinco_lit.evaluation.measure import TestSet, measure
from tests.evaluate.conftest import CODEBOOK, DIM, NEAREST, STEPS, Data, neighbours

FIGURES = ("mse", "mse_per_step", "recall_at_1", "recall_at_10", "recall_at_100", "entropy_bits", "unused_share")


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than all the rest; where files are looked at they are drawn."""
    if "written" not in request.node.name:
        monkeypatch.setattr("qinco_lit.commands.evaluate.figure_bytes", lambda *_: b"")


class PlainCodec:
    """Greedy residual quantization, slow enough to be read."""

    num_steps, codebook_size = STEPS, CODEBOOK

    def __init__(self) -> None:
        self.codebooks = (
            np.random.default_rng(5).normal(size=(STEPS, CODEBOOK, DIM)) * np.array([1.2, 0.7, 0.5])[:, None, None]
        )

    def encode(self, x: Float32[np.ndarray, "n dim"]) -> UInt8[np.ndarray, "n steps"]:
        codes = np.zeros((len(x), STEPS), dtype=np.uint8)
        for i, vector in enumerate(x):
            residual = vector.astype(np.float64)
            for step in range(STEPS):
                codes[i, step] = np.square(residual - self.codebooks[step]).sum(axis=1).argmin()
                residual = residual - self.codebooks[step, codes[i, step]]
        return codes

    def decode(self, codes: UInt8[np.ndarray, "n m"]) -> Float32[np.ndarray, "n dim"]:
        *_, last = self.decode_steps(codes)
        return last

    def decode_steps(self, codes: UInt8[np.ndarray, "n m"]) -> Iterator[Float32[np.ndarray, "n dim"]]:
        x_hat = np.zeros((len(codes), DIM))
        for step in range(codes.shape[1]):
            x_hat = x_hat + self.codebooks[step, codes[:, step]]
            yield x_hat.astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_figures_equal_a_slow_loop_and_do_not_depend_on_the_blocks(metric: str) -> None:
    data = Data(metric=metric)
    data.prepare_data()
    data.setup("")
    database, queries = data.database, data.queries
    truth = data.ground_truth
    codec = PlainCodec()
    results = []
    for batch_size in (250, 64, 3):
        seen: list[int] = []
        test_set = TestSet(database, queries, truth, metric)
        results.append(measure(codec, test_set, batch_size=batch_size, advance=seen.append))
        assert sum(seen) == 250
    for other in results[1:]:
        for name in FIGURES:
            np.testing.assert_allclose(other[name], results[0][name], rtol=1e-12)

    codes = codec.encode(database)
    for step in range(STEPS):
        errors = []
        for i in range(250):
            x_hat = sum(codec.codebooks[m, codes[i, m]] for m in range(step + 1))
            errors.append(sum((float(database[i, j]) - x_hat[j]) ** 2 for j in range(DIM)))
        assert results[0]["mse_per_step"][step] == pytest.approx(sum(errors) / 250, rel=1e-5)
    assert results[0]["mse"] == results[0]["mse_per_step"][-1]
    found = NEAREST[metric](queries, codec.decode(codes))
    for k in (1, 10, 100):
        expected = np.mean([truth[query, 0] in found[query, :k] for query in range(30)])
        assert results[0][f"recall_at_{k}"] == pytest.approx(expected)


def test_metrics_json_is_recomputed_by_a_second_path(run: Callable[..., Any], codec_dir: Path, tmp_path: Path) -> None:
    returned = run(baselines=["pq", "rq"], num_threads=1, batch_size=64)
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record == returned
    data = Data()
    data.prepare_data()
    data.setup("")
    codec = Codec.load(codec_dir)
    codes = codec.encode(data.database)
    row = record["methods"]["codec"]
    for step in range(STEPS):
        squared = np.square(data.database - codec.decode(codes[:, : step + 1]).astype(np.float64)).sum(axis=1)
        assert row["mse_per_step"][step] == pytest.approx(squared.mean(), rel=1e-9)
        share = np.unique(codes[:, step], return_counts=True)[1] / 250
        assert row["entropy_bits"][step] == pytest.approx(-(share * np.log2(share)).sum())
        assert row["unused_share"][step] == pytest.approx(1 - len(share) / CODEBOOK)
    found = neighbours(data.queries, codec.decode(codes))
    for k in (1, 10, 100):
        expected = np.mean([data.ground_truth[query, 0] in found[query, :k] for query in range(30)])
        assert row[f"recall_at_{k}"] == pytest.approx(expected)
    assert row["bytes_per_vector"] == 1.5
    assert record["methods"]["pq"]["bytes_per_vector"] == 2  # rounded up
    assert record["num_threads"] == {"torch": 1, "faiss": 1}
    sizes = {"num_train": 700, "num_database": 250, "num_queries": 30}
    assert record["data"] == {"name": "normal", "metric": "l2", "dim": DIM, **sizes}


def test_the_fields_of_the_record_are_frozen(run: Callable[..., Any], codec_dir: Path) -> None:
    """A new or renamed field breaks readers of metrics.json: raise SCHEMA_VERSION with it."""
    record = run(baselines=["lsq"])
    assert SCHEMA_VERSION == record["schema_version"] == 4
    assert set(record) == {
        "schema_version", "created", "codec", "data", "batch_size", "device", "num_threads", "command",
        "versions", "git_revision", "hardware", "arithmetic", "methods", "rates",
    }  # fmt: skip
    codec_fields = {
        "bytes_per_vector", "num_steps", "codebook_size", *FIGURES, "encode_vectors_per_s", "decode_vectors_per_s",
    }  # fmt: skip
    assert set(record["methods"]["codec"]) == codec_fields
    more = {"settings", "num_training_rows", "train_s", "measured_at", "from_cache"}
    assert set(record["methods"]["lsq"]) == codec_fields | more
    search_fields = {"beam_size", "num_candidates", "candidate_budget", "precision"}
    weights = codec_dir / "weights.safetensors"
    assert record["codec"]["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    facts = {"path", "dim", "num_steps", "bits_per_vector", "model", "weights_sha256", "truncated_from"}
    assert set(record["codec"]) == facts | search_fields
    assert record["rates"] is None


def test_baselines_come_from_the_cache_with_identical_figures(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(baselines=["pq", "opq", "rq", "lsq"])["methods"]
    monkeypatch.setattr("qinco_lit.evaluation.baselines.Baseline.train", None)
    second = run(baselines=["lsq", "pq", "opq", "rq"])["methods"]
    assert list(second) == ["codec", "lsq", "pq", "opq", "rq"]
    for method in ("pq", "opq", "rq", "lsq"):
        assert (first[method].pop("from_cache"), second[method].pop("from_cache")) == (False, True)
        assert first[method] == second[method]


def test_other_queries_are_measured_anew(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(baselines=["pq"])["methods"]["pq"]
    assert run(baselines=["pq"], data=Data(with_queries=False))["methods"]["pq"]["from_cache"] is False
    assert run(baselines=["pq"])["methods"]["pq"]["recall_at_10"] == first["recall_at_10"]


def test_another_metric_is_measured_anew_and_on_record(run: Callable[..., Any], tmp_path: Path) -> None:
    nearest = run(baselines=["pq"])
    products = run(baselines=["pq"], data=Data(metric="ip"))
    assert (nearest["data"]["metric"], products["data"]["metric"]) == ("l2", "ip")
    assert "; nearest by inner product." in (tmp_path / "out" / "table.md").read_text()
    assert products["methods"]["pq"]["from_cache"] is False
    assert products["methods"]["pq"]["mse"] == nearest["methods"]["pq"]["mse"]
    data = Data(metric="ip")
    data.prepare_data()
    data.setup("")
    for method in ("codec", "pq"):
        recalls = [record["methods"][method]["recall_at_10"] for record in (nearest, products)]
        assert recalls[0] != recalls[1]
    assert run(baselines=["pq"])["methods"]["pq"]["from_cache"] is True
    assert run(baselines=["pq"], data=Data(metric="ip"))["methods"]["pq"]["from_cache"] is True


def test_a_wider_search_lowers_the_error_and_is_on_record(run: Callable[..., Any]) -> None:
    model, narrow, wide = run(), run(beam_size=1, num_candidates=1), run(beam_size=32, num_candidates=0)
    errors = [record["methods"]["codec"]["mse"] for record in (narrow, model, wide)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[2]
    breadths = [(record["codec"]["beam_size"], record["codec"]["num_candidates"]) for record in (narrow, model, wide)]
    assert breadths == [(1, 1), (3, 4), (32, 0)]
    assert wide["codec"]["model"]["beam_size"] == 3


def test_without_queries_there_is_no_recall(run: Callable[..., Any], tmp_path: Path) -> None:
    row = run(data=Data(with_queries=False))["methods"]["codec"]
    assert [row[f"recall_at_{k}"] for k in (1, 10, 100)] == [None] * 3
    assert "| QINCo2 | 1.5 |" in (tmp_path / "out" / "table.md").read_text()


def test_threads_are_restored(run: Callable[..., Any]) -> None:
    before = num_threads_in_use()
    assert run(num_threads=1)["num_threads"] == {"torch": 1, "faiss": 1}
    assert num_threads_in_use() == before


def test_results_are_written_and_told(
    run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(baselines=["pq"])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["metrics.json", "rate_distortion.png", "rate_distortion.svg", "table.md"]
    printed = capsys.readouterr().out
    assert "QINCo2" in printed
    assert str(tmp_path / "out") in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baselines": ["qp"]}, r"^unknown baseline qp; choose from: lsq, opq, pq, rq$"),
        ({"num_threads": 0}, r"^num_threads=0: give at least 1$"),
        ({"batch_size": -3}, r"^batch_size=-3: give at least 1$"),
        ({"device": "gpu"}, r"^unknown device gpu; choose from: auto, cpu, cuda, cuda:N$"),
        ({"device": "cuda:64"}, r"^device=cuda:64: this machine has \d+ CUDA devices; use device=cpu$"),
        ({"data": Data(dim=4)}, r"codec encodes vectors of dimension 6, data set normal has 4$"),
        ({"beam_size": 0}, r"^[^\n]*beam_size[^\n]*$"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(
    run: Callable[..., Any], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_a_missing_codec_is_named(run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere"):
        run(codec_dir=tmp_path / "nowhere")


def test_a_database_vector_with_nan_is_named(run: Callable[..., Any]) -> None:
    data = Data()
    data.prepare_data()
    data.setup("")
    broken = data.database.copy()
    broken[70, 2] = np.nan
    facts = {
        name: getattr(data, name) for name in ("name", "metric", "dim", "train_vectors", "queries", "ground_truth")
    }
    stubs = {"prepare_data": lambda: None, "setup": lambda stage: None}
    for batch_size in (250, 64):
        with pytest.raises(ValueError, match=r"^database vector 70 holds NaN or infinity$"):
            run(data=SimpleNamespace(database=broken, **facts, **stubs), batch_size=batch_size)


def test_wandb_gets_rate_distortion_and_every_methods_figures(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    logged: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    states = []
    tracked = SimpleNamespace(summary=summary, log=logged.update)
    monkeypatch.setattr(
        "qinco_lit.training.wandb_run.start_wandb", lambda *_, **options: SimpleNamespace(experiment=tracked, **options)
    )
    monkeypatch.setattr("qinco_lit.training.wandb_run.finish_wandb", lambda runs, state: states.append(state))
    record = run(logger={"mode": "offline", "log_codec": False}, baselines=["pq"])
    assert all(isinstance(table, wandb.Table) for table in logged.values())
    codec, pq = record["methods"]["codec"], record["methods"]["pq"]
    assert logged["evaluate/rate_distortion"].columns == ["method", "num_codes", "bytes_per_vector", "mse"]
    assert logged["evaluate/rate_distortion"].data == [
        *(["codec", m, codec["bytes_per_vector"] * m / STEPS, mse] for m, mse in enumerate(codec["mse_per_step"], 1)),
        ["pq", pq["num_steps"], pq["bytes_per_vector"], pq["mse"]],
    ]
    columns = logged["evaluate/methods"].columns
    for row, (name, method) in zip(logged["evaluate/methods"].data, record["methods"].items(), strict=True):
        assert row == [name, *(method[column] for column in columns[1:])]
        for column in columns[1:]:
            assert summary[f"evaluate/{name}/{column}"] == method[column]
    assert "evaluate/rates" not in logged
    record = run(logger={"mode": "offline", "log_codec": False}, rate=[1, STEPS])
    table = logged["evaluate/rates"]
    assert table.columns == ["found_by", "num_codes", *columns[1:]]
    [first, last], whole = record["rates"]["points"], record["methods"]["codec"]
    assert [row[:4] for row in table.data] == [
        ["prefix", 1, 0.5, first["prefix"]["mse"]], ["encoded", 1, 0.5, first["encoded"]["mse"]],
        ["prefix", 3, 1.5, whole["mse"]], ["encoded", 3, 1.5, last["encoded"]["mse"]],
    ]  # fmt: skip
    assert table.data[0][-2:] == [whole["encode_vectors_per_s"], first["encoded"]["decode_vectors_per_s"]]
    assert table.data[1][-2:] == [first["encoded"][f"{what}_vectors_per_s"] for what in ("encode", "decode")]
    monkeypatch.setattr("qinco_lit.evaluation.evaluate.measure", None)
    with pytest.raises(TypeError):
        run(logger={"mode": "offline"})
    assert states == ["finished", "finished", "failed"]
