import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from jaxtyping import Float32

from qinco_lit.evaluation import baselines
from qinco_lit.evaluation.baselines import METHODS, SETTINGS, Baseline, trained_baseline
from qinco_lit.metrics import mean_squared_error
from qinco_lit.vectors.rows import fingerprint, spaced_rows


def _vectors(num: int, dim: int, seed: int) -> Float32[np.ndarray, "num dim"]:
    """Correlated dimensions of unequal variance, so that the methods differ."""
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) * np.linspace(3, 0.3, dim)
    return (np.random.default_rng(seed).normal(size=(num, dim)) @ mixing.T).astype(np.float32)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "lsq", {"train_iterations": 3, "train_ils_iterations": 2, "encode_ils_iterations": 8})
    monkeypatch.setitem(SETTINGS, "opq", {"kmeans_iterations": 10, "rotation_iterations": 8})
    monkeypatch.setitem(SETTINGS, "pq", {"kmeans_iterations": 10})


@pytest.mark.parametrize("method", METHODS)
def test_error_falls_with_bytes_and_is_below_the_variance(method: str) -> None:
    x, database = _vectors(1500, 12, 1), _vectors(400, 12, 2)
    errors = [float(np.square(database - x.mean(axis=0)).sum(axis=1).mean())]
    for num_bytes in (1, 2, 4):
        baseline = Baseline.train(method, x, num_bytes)
        codes = baseline.encode(database)
        assert codes.shape == (400, num_bytes)
        assert codes.dtype == np.uint8
        errors.append(mean_squared_error(database, baseline.decode(codes)))
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.7 * errors[1]


def test_pq_is_the_index_of_faiss() -> None:
    x, database = _vectors(1500, 12, 1), _vectors(300, 12, 2)
    index = faiss.IndexPQ(12, 4, 8)
    index.pq.cp.niter = SETTINGS["pq"]["kmeans_iterations"]
    index.pq.cp.min_points_per_centroid = 1
    index.train(x)
    baseline = Baseline.train("pq", x, 4)
    np.testing.assert_array_equal(baseline.encode(database), index.sa_encode(database))
    np.testing.assert_array_equal(
        baseline.decode(baseline.encode(database)), index.sa_decode(index.sa_encode(database))
    )


def test_prefixes_of_rq_refine_to_the_full_reconstruction() -> None:
    x, database = _vectors(1500, 10, 1), _vectors(300, 10, 2)
    baseline = Baseline.train("rq", x, 3)
    codes = baseline.encode(database)
    steps = list(baseline.decode_steps(codes))
    errors = [mean_squared_error(database, x_hat) for x_hat in steps]
    assert len(steps) == 3
    assert errors == sorted(errors, reverse=True)
    np.testing.assert_allclose(steps[-1], baseline.decode(codes), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("method", ["pq", "opq", "lsq"])
def test_methods_without_prefixes_give_the_full_reconstruction_only(method: str) -> None:
    baseline = Baseline.train(method, _vectors(600, 8, 1), 2)
    codes = baseline.encode(_vectors(50, 8, 2))
    (x_hat,) = baseline.decode_steps(codes)
    np.testing.assert_array_equal(x_hat, baseline.decode(codes))


def test_wider_search_of_rq_beats_greedy_encoding() -> None:
    x, database = _vectors(1500, 10, 1), _vectors(300, 10, 2)
    baseline = Baseline.train("rq", x, 4)
    greedy, target = np.zeros_like(database), database
    *_, last = baseline.decode_steps(np.arange(256, dtype=np.uint8)[:, None].repeat(4, axis=1))
    previous = np.zeros_like(last)
    for total in baseline.decode_steps(np.arange(256, dtype=np.uint8)[:, None].repeat(4, axis=1)):
        codebook = total - previous
        previous = total
        residual = target - greedy
        nearest = np.square(residual[:, None] - codebook).sum(axis=2).argmin(axis=1)
        greedy = greedy + codebook[nearest]
    assert mean_squared_error(database, baseline.decode(baseline.encode(database))) < mean_squared_error(
        database, greedy
    )


@pytest.mark.parametrize("method", ["pq", "opq"])
def test_dimensions_that_do_not_divide_are_padded(method: str) -> None:
    x, database = _vectors(1000, 10, 1), _vectors(200, 10, 2)
    baseline = Baseline.train(method, x, 4)  # 10 -> 12
    x_hat = baseline.decode(baseline.encode(database))
    assert x_hat.shape == database.shape
    assert mean_squared_error(database, x_hat) < 0.3 * np.square(database).sum(axis=1).mean()


@pytest.mark.parametrize("method", METHODS)
def test_training_twice_and_bytes_instead_of_floats_give_the_same_codes(method: str) -> None:
    x = np.random.default_rng(3).integers(0, 255, size=(700, 8)).astype(np.uint8)
    first, second = Baseline.train(method, x, 2), Baseline.train(method, x.astype(np.float32), 2)
    np.testing.assert_array_equal(first.encode(x[:100]), second.encode(x[:100].astype(np.float32)))


def test_training_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    for method in METHODS:
        Baseline.train(method, _vectors(300, 8, 1), 2)
    assert capfd.readouterr() == ("", "")


def test_impossible_training_is_refused_in_one_line() -> None:
    x = _vectors(300, 8, 1)
    with pytest.raises(ValueError, match=r"^unknown baseline 'qp'; choose from: pq, opq, rq, lsq$"):
        Baseline.train("qp", x, 2)
    with pytest.raises(ValueError, match=r"^baseline pq needs at least 256 training vectors, there are 255$"):
        Baseline.train("pq", x[:255], 2)
    with pytest.raises(ValueError, match=r"^a baseline of num_bytes=0 is impossible; use 1 or more$"):
        Baseline.train("pq", x, 0)
    x[17, 3] = np.nan
    with pytest.raises(ValueError, match=r"^training vector 17 holds NaN or infinity$"):
        Baseline.train("pq", x, 2)


def test_training_rows_are_evenly_spaced_and_distinct() -> None:
    x = np.arange(1000)[:, None]
    np.testing.assert_array_equal(spaced_rows(x, 1000), x)
    rows = spaced_rows(x, 300)[:, 0]
    assert len(set(rows.tolist())) == 300
    assert set(np.diff(rows).tolist()) == {3, 4}
    assert rows[0] == 0
    assert rows[-1] >= 996


@pytest.mark.parametrize("method", METHODS)
def test_the_cache_returns_the_same_quantizer_without_training(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, database = _vectors(600, 10, 1), _vectors(100, 10, 2)
    fresh = Baseline.train(method, x, 2)
    first = trained_baseline(method, x, 2, max_training_rows=600, cache_dir=tmp_path)
    monkeypatch.setattr(baselines.Baseline, "train", None)  # training again would fail
    second = trained_baseline(method, x, 2, max_training_rows=600, cache_dir=tmp_path)
    assert first.train_s == second.train_s > 0
    assert first.num_training_rows == 600
    codes = fresh.encode(database)
    for cached in (first, second):
        np.testing.assert_array_equal(cached.baseline.encode(database), codes)
        np.testing.assert_array_equal(cached.baseline.decode(codes), fresh.decode(codes))


def test_the_cache_tells_apart_rows_rates_methods_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = _vectors(600, 8, 1)

    def folder(
        method: str = "pq", rows: Float32[np.ndarray, "n dim"] = x, num_bytes: int = 2, maximum: int = 600
    ) -> str:
        return trained_baseline(method, rows, num_bytes, max_training_rows=maximum, cache_dir=tmp_path).folder.name

    changed = x.copy()
    changed[599, 7] += 1
    folders = [folder(), folder(rows=changed), folder(num_bytes=1), folder(maximum=500), folder(method="rq")]
    monkeypatch.setitem(SETTINGS, "pq", {"kmeans_iterations": 11})
    folders.append(folder())
    assert len(set(folders)) == len(folders)
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_interrupted_training_leaves_nothing_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = _vectors(300, 8, 1)

    def fails(self: Baseline, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(baselines.Baseline, "save", fails)
        with pytest.raises(KeyboardInterrupt):
            trained_baseline("pq", x, 2, max_training_rows=300, cache_dir=tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    trained_baseline("pq", x, 2, max_training_rows=300, cache_dir=tmp_path)


def test_results_are_kept_for_their_circumstances(tmp_path: Path) -> None:
    cached = trained_baseline("pq", _vectors(300, 8, 1), 2, max_training_rows=300, cache_dir=tmp_path)
    assert cached.read_results({"database": "a"}) is None
    cached.write_results({"database": "a"}, {"mse": 1 / 3})
    assert cached.read_results({"database": "a"}) == {"mse": 1 / 3}
    assert cached.read_results({"database": "b"}) is None
    facts = json.loads((cached.folder / "facts.json").read_text())
    assert facts["method"] == "pq"
    assert facts["faiss"] == faiss.__version__


def test_a_fingerprint_is_of_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _vectors(100, 8, 1)
    whole = fingerprint(x)
    assert fingerprint(x.copy(order="F")) == whole
    assert fingerprint(x[:99]) != whole
    assert fingerprint(x.reshape(50, 16)) != whole
    assert fingerprint(x.view(np.int32)) != whole
