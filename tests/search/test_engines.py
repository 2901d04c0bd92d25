"""Engines of the harness: ours and those of faiss, against brute force over what they store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from jaxtyping import Float32

from qinco_lit.coarse.list_assigner import hnsw_index
from qinco_lit.metrics import recall_at
from qinco_lit.progress import Progress
from qinco_lit.search.points import faiss_engine_cache, faiss_engines
from qinco_lit.search.points.engines import SearchEngine, SearcherEngine, default_grid
from qinco_lit.search.points.faiss_engine_cache import EngineBuilder
from qinco_lit.search.points.faiss_engines import METHODS, FaissEngine, built_index
from qinco_lit.search.searcher import Searcher
from tests.search.indexes import LISTS, indexed

DIM, NUM_LISTS, ROWS = 16, 24, 2400


def _vectors(num: int, seed: int, dim: int = DIM) -> Float32[np.ndarray, "num dim"]:
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) * np.linspace(3, 0.5, dim)
    return np.float32(np.random.default_rng(seed).normal(size=(num, dim)) @ mixing.T)


def _unit(x: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n dim"]:
    return np.float32(x / np.linalg.norm(x, axis=1, keepdims=True))


class Problem:
    """A database, queries and lists."""

    def __init__(self, metric: Any = "l2", dim: int = DIM) -> None:
        self.metric = metric
        self.train, self.x, self.queries = _vectors(1500, 1, dim), _vectors(ROWS, 2, dim), _vectors(60, 3, dim)
        if metric == "cosine":
            self.train, self.x, self.queries = _unit(self.train), _unit(self.x), _unit(self.queries)
        self.coarse = hnsw_index(self.train[:NUM_LISTS].copy(), metric)

    def exact(self, x: Float32[np.ndarray, "n dim"], k: int) -> np.ndarray:
        if self.metric == "l2":
            score = np.square(self.queries[:, None].astype(np.float64) - x).sum(axis=2)
        else:
            score = -(self.queries.astype(np.float64) @ x.T)
        return np.argsort(score, axis=1, kind="stable")[:, :k]

    def engine(self, method: str, num_bytes: int = 4) -> FaissEngine:
        index = built_index(
            method, num_bytes, coarse=self.coarse, metric=self.metric, training_rows=self.train,
            database=iter([self.x[:1000], self.x[1000:]]),
        )  # fmt: skip
        return FaissEngine(method, index, nprobe=[1, 4, NUM_LISTS], ef_search=[NUM_LISTS])


def _most(engine: SearchEngine) -> dict[str, int]:
    return {name: values[-1] for name, values in engine.parameters.items()}


def _overlap(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, expected, strict=True)]))


def _reconstructions(engine: FaissEngine) -> np.ndarray:
    """Of all vectors, from the engine's own codes."""
    index: Any = engine._index
    ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
    ivf.make_direct_map()
    x_hat = ivf.reconstruct_n(0, ivf.ntotal)
    if isinstance(index, faiss.IndexPreTransform):
        x_hat = index.chain.at(0).reverse_transform(x_hat)
    return np.asarray(x_hat)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize(("method", "least"), [("ivf_pq", 1.0), ("ivf_rq", 0.94)])
def test_all_lists_probed_are_brute_force_over_the_reconstructions(metric: str, method: str, least: float) -> None:
    """Up to the norm of the residual quantizer, which is one byte."""
    problem = Problem(metric)
    engine = problem.engine(method)
    found = engine.search(problem.queries, 10, **_most(engine)).ids
    assert _overlap(found, problem.exact(_reconstructions(engine), 10)) >= least


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_fast_scan_finds_what_the_same_codes_scanned_slowly_find(metric: str) -> None:
    """Up to look-up tables of one byte."""
    problem = Problem(metric)
    engine = problem.engine("ivf_pqfs")
    fast: Any = engine._index
    number = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    flat = faiss.IndexFlatL2(DIM)
    flat.add(problem.coarse.reconstruct_n(0, NUM_LISTS))
    slow = faiss.IndexIVFPQ(problem.coarse, DIM, NUM_LISTS, 8, 4, number)
    faiss.copy_array_to_vector(faiss.vector_to_array(fast.pq.centroids), slow.pq.centroids)
    slow.is_trained = True
    slow.quantizer = flat
    slow.add(problem.x)
    slow.quantizer, slow.nprobe = problem.coarse, NUM_LISTS
    problem.coarse.hnsw.efSearch = NUM_LISTS
    _, expected = slow.search(problem.queries, 10)
    assert _overlap(engine.search(problem.queries, 10, **_most(engine)).ids, expected) > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_more_lists_find_more_and_all_of_them_more_than_chance(method: str) -> None:
    problem = Problem()
    engine = problem.engine(method)
    truth = problem.exact(problem.x, 1)
    recalls = []
    for nprobe in (1, 4, NUM_LISTS):
        found = engine.search(problem.queries, 100, **{**_most(engine), "nprobe": nprobe}).ids
        recalls.append(recall_at(found, truth, [100])[100])
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.8
    assert recalls[0] < recalls[-1]


def test_every_vector_is_in_the_list_of_its_nearest_centroid() -> None:
    for metric in ("l2", "ip"):
        problem = Problem(metric)
        centroids = problem.coarse.reconstruct_n(0, NUM_LISTS)
        nearest = np.square(problem.x[:, None].astype(np.float64) - centroids).sum(axis=2).argmin(axis=1)
        for method in ("ivf_pq", "rabitq"):
            index: Any = problem.engine(method)._index
            lists = faiss.extract_index_ivf(index).invlists
            for number in range(NUM_LISTS):
                size = lists.list_size(number)
                ids = faiss.rev_swig_ptr(lists.get_ids(number), size) if size else []
                np.testing.assert_array_equal(np.sort(ids), np.flatnonzero(nearest == number))


def test_bytes_of_a_vector_are_those_asked_for_but_for_rabitq() -> None:
    problem = Problem()
    engines = {method: problem.engine(method) for method in METHODS}
    sizes = {method: engine.bytes_per_vector for method, engine in engines.items()}
    assert sizes == {
        "ivf_pq": {"codes": 4},
        "ivf_rq": {"codes": 4, "norm": 1},
        "ivf_pqfs": {"codes": 4},
        "ivf_pqfs_refine": {"codes": 2, "re-rank codes": 2},
        "rabitq": {"codes": 2, "factors": 8},
        "rabitq2": {"codes": 4, "factors": 20},
    }
    for method in METHODS:
        index: Any = engines[method]._index
        base = index.base_index if method == "ivf_pqfs_refine" else index
        stored = int(faiss.downcast_index(faiss.extract_index_ivf(faiss.downcast_index(base))).code_size)
        assert sum(sizes[method].values()) == stored + sizes[method].get("re-rank codes", 0)


@pytest.mark.parametrize("method", ["ivf_pq", "ivf_pqfs", "ivf_pqfs_refine"])
def test_dimensions_that_do_not_divide_are_padded(method: str) -> None:
    problem = Problem(dim=18)
    engine = problem.engine(method)
    truth = problem.exact(problem.x, 1)
    assert recall_at(engine.search(problem.queries, 100, **_most(engine)).ids, truth, [100])[100] > 0.8


def test_results_are_padded_and_a_search_changes_nothing() -> None:
    problem = Problem()
    for method in METHODS:
        engine = problem.engine(method)
        few = {**_most(engine), "nprobe": 1}
        first = engine.search(problem.queries, 400, **few).ids
        assert first.shape == (60, 400)
        assert first.min() == -1
        engine.search(problem.queries, 5, **_most(engine))
        np.testing.assert_array_equal(engine.search(problem.queries, 400, **few).ids, first)


def test_impossible_baselines_are_refused_in_one_line() -> None:
    problem = Problem()
    problem.train = problem.train[:200]
    with pytest.raises(ValueError, match=r"^baseline ivf_pq needs 256 training vectors, there are 200$"):
        problem.engine("ivf_pq")
    problem = Problem()
    with pytest.raises(ValueError, match=r"^baseline ivf_pqfs_refine splits its bytes: num_bytes=1 is not enough, .*"):
        problem.engine("ivf_pqfs_refine", 1)


# -- cache ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def builder(tmp_path: Path) -> Callable[..., EngineBuilder]:
    problem = Problem()

    def make(**changes: Any) -> EngineBuilder:
        given = {
            "coarse": problem.coarse, "metric": "l2", "train_vectors": problem.train, "database": problem.x,
            "num_bytes": 2, "cache_dir": tmp_path,
        }  # fmt: skip
        return EngineBuilder(**{**given, **changes})

    return make


@pytest.mark.parametrize("method", METHODS)
def test_a_cached_engine_finds_the_same_without_training(
    method: str, builder: Callable[..., EngineBuilder], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    grid: dict[str, Any] = {"nprobe": [2], "ef_search": [8], "progress": Progress(show=False)}
    first = builder().engine(method, **grid)
    monkeypatch.setattr(faiss_engine_cache, "built_index", None)  # building again would fail
    second = builder().engine(method, **grid)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert first.build_s == second.build_s > 0
    assert first.num_training_rows == 1500
    queries = Problem().queries
    fresh = Problem().engine(method, 2)
    for cached in (first, second):
        expected = fresh.search(queries, 20, **_most(cached.engine)).ids
        np.testing.assert_array_equal(cached.engine.search(queries, 20, **_most(cached.engine)).ids, expected)
    assert capfd.readouterr() == ("", "")


def test_the_cache_tells_apart_what_an_index_depends_on(
    builder: Callable[..., EngineBuilder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_engine_cache, "built_index", lambda *_, **__: faiss.IndexFlatL2(4))
    grid: dict[str, Any] = {"nprobe": [1], "ef_search": [1], "progress": Progress(show=False)}
    other = Problem()
    other.x[5, 3] += 1
    changes: list[dict[str, Any]] = [
        {}, {"num_bytes": 3}, {"database": other.x}, {"train_vectors": other.x},
        {"coarse": hnsw_index(other.x[:NUM_LISTS].copy())}, {"metric": "ip"},
    ]  # fmt: skip
    for change in changes:
        assert not builder(**change).engine("ivf_pq", **grid).from_cache
    assert not builder().engine("rabitq", **grid).from_cache
    monkeypatch.setitem(faiss_engines.SETTINGS, "ivf_pq", {"kmeans_iterations": 3})
    assert not builder().engine("ivf_pq", **grid).from_cache
    assert builder().engine("ivf_pq", **grid).from_cache
    assert len(list(tmp_path.iterdir())) == len(changes) + 2


# -- ours ----------------------------------------------------------------------------------------------------------


def _ours(**options: Any) -> tuple[SearcherEngine, Any]:
    pairwise = options.pop("pairwise", True)
    given = indexed(pairwise=pairwise)
    return SearcherEngine(Searcher(given.bundle), **options), given


def test_our_results_are_those_of_the_searcher_and_short_ones_are_padded() -> None:
    engine, given = _ours(pairwise=True)
    searcher = Searcher(indexed().bundle)
    for num_additive, num_pairwise in ((64, 16), (64, 0), (16, 64)):
        result = engine.search(
            given.queries, 100, nprobe=6, ef_search=12, num_additive=num_additive, num_pairwise=num_pairwise
        )
        decoded = num_pairwise or num_additive
        _, expected = searcher.search(
            given.queries, decoded, nprobe=6, ef_search=12, num_additive=num_additive, num_pairwise=num_pairwise
        )
        np.testing.assert_array_equal(result.ids[:, :decoded], expected)
        assert (result.ids[:, decoded:] == -1).all()
        stages = ["additive", "decode"] if num_pairwise in (0, 64) else ["additive", "pairwise", "decode"]
        assert list(result.stages) == stages


def test_equal_effort_is_the_same_search() -> None:
    engine, given = _ours()
    by_effort: dict[Any, np.ndarray] = {}
    for nprobe, ef_search in ((2, 12), (12, 1), (12, 6), (12, 12)):
        for num_additive, num_pairwise in ((16, 4), (16, 0), (16, 16), (4, 16), (4, 0)):
            values = dict(zip(engine.parameters, (nprobe, ef_search, num_additive, num_pairwise), strict=True))
            ids = engine.search(given.queries, 20, **values).ids
            np.testing.assert_array_equal(by_effort.setdefault(engine.effort(values), ids), ids)
    assert len(by_effort) == 6


def test_default_values_fit_the_index() -> None:
    assert default_grid(12, has_pairwise=False)["nprobe"] == [1, 2, 4, 8]
    assert default_grid(1024, has_pairwise=True)["nprobe"][-1] == 256
    assert default_grid(1 << 20, has_pairwise=True)["nprobe"][-1] == 4096
    assert default_grid(4, has_pairwise=True)["ef_search"] == [4]
    engine, _ = _ours(pairwise=False)
    assert engine.parameters["num_pairwise"] == [0]
    assert list(_ours(num_pairwise=[0, 8, 2])[0].parameters["num_pairwise"]) == [2, 8, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nprobe": [4, 13]}, f"nprobe=13: the index has {LISTS} lists"),
        ({"nprobe": [0]}, "nprobe=0: give at least 1"),
        ({"ef_search": []}, r"ef_search=\[\]: give at least one value, or null for a choice of them"),
        ({"num_pairwise": [-1]}, "num_pairwise=-1: give at least 0"),
        (
            {"num_pairwise": [0, 8], "pairwise": False},
            "num_pairwise=8: the index has no pairwise decoder, leave num_pairwise out",
        ),
    ],
)
def test_values_that_the_index_cannot_have_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        _ours(**options)
