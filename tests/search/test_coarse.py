"""The coarse quantizer: a graph that is the same on any number of threads, assignment with a measured error."""

import logging

import faiss
import numpy as np
import pytest

from qinco_lit.coarse import list_assigner as coarse
from qinco_lit.coarse.list_assigner import EXACT_LISTS, MAX_EXCESS, ListAssigner, graphs_kept, hnsw_index
from qinco_lit.devices import threads


def normal(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def squared_l2(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(rows, lists), float64."""
    x, centroids = x.astype(np.float64), centroids.astype(np.float64)
    return (x**2).sum(1)[:, None] - 2 * x @ centroids.T + (centroids**2).sum(1)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_graph_has_the_same_bytes_on_any_number_of_threads(metric):
    centroids = normal(3_000, 12)
    found = []
    for count in (1, 2, 4):
        with threads(count):
            found.append(faiss.serialize_index(hnsw_index(centroids, metric)).tobytes())
            assert faiss.omp_get_max_threads() == count
    assert found[0] == found[1] == found[2]


def test_the_graph_compares_by_the_metric():
    centroids, x = normal(400, 8), normal(50, 8, 1)
    products = hnsw_index(centroids * np.linspace(1, 3, 400, dtype=np.float32)[:, None], "ip")
    wide = faiss.SearchParametersHNSW(efSearch=400)
    scaled = centroids.astype(np.float64) * np.linspace(1, 3, 400)[:, None]
    assert np.array_equal(products.search(x, 1, params=wide)[1][:, 0], (x @ scaled.T).argmax(1))
    squared = hnsw_index(centroids)
    assert np.array_equal(squared.search(x, 1, params=wide)[1][:, 0], squared_l2(x, centroids).argmin(1))


def test_a_kept_graph_is_built_once_and_given_as_a_copy():
    centroids = normal(300, 8)
    expected = faiss.serialize_index(hnsw_index(centroids)).tobytes()
    with graphs_kept():
        first, second, products = hnsw_index(centroids), hnsw_index(centroids.copy()), hnsw_index(centroids, "ip")
        first.add(centroids)
        assert faiss.serialize_index(second).tobytes() == expected
        assert faiss.serialize_index(products).tobytes() == faiss.serialize_index(hnsw_index(centroids, "ip")).tobytes()
        assert hnsw_index(centroids[:200]).ntotal == 200
    del first
    assert faiss.serialize_index(second).tobytes() == expected


@pytest.mark.parametrize("offset", [0.0, 3_000.0])
def test_exact_assignment_is_the_nearest_centroid(offset):
    centroids, x = normal(300, 8) + np.float32(offset), normal(200, 8, 1) + np.float32(offset)
    assigner = ListAssigner(centroids)
    found = assigner(x)
    assert found.dtype == np.int32
    assert np.array_equal(found, squared_l2(x, centroids).argmin(1))
    assert assigner.report == {"num_lists": 300, "method": "exact"}
    assert assigner(x[:0]).shape == (0,)
    assert np.array_equal(np.concatenate([assigner(x[i : i + 1]) for i in range(20)]), found[:20])


def test_any_real_dtype():
    x = np.random.default_rng(0).integers(0, 255, (100, 6), dtype=np.uint8)
    centroids = x[:10].astype(np.float32)
    expected = squared_l2(x, centroids).argmin(1)
    for dtype in (np.uint8, np.float16, np.float64):
        assert np.array_equal(ListAssigner(centroids)(x.astype(dtype)), expected)


def test_a_search_that_is_too_narrow_is_widened(monkeypatch, caplog):
    centroids, x = normal(6_000, 24), normal(5_000, 24, 1)
    best = squared_l2(x[:500], centroids).min(1).mean()

    def excess(lists):
        return ((x[:500].astype(np.float64) - centroids[lists]) ** 2).sum(1).mean() / best - 1

    narrow = hnsw_index(centroids).search(x[:500], 1, params=faiss.SearchParametersHNSW(efSearch=4))[1][:, 0]
    assert excess(narrow) > 10 * MAX_EXCESS
    monkeypatch.setattr(coarse, "_FIRST_EF_SEARCH", 4)
    assigner = ListAssigner(centroids, exact=False)
    with caplog.at_level(logging.INFO):
        found = assigner(x)
    assert assigner.report["ef_search"] > 4
    assert assigner.report["sample_rows"] == 2_048
    assert 0 <= assigner.report["excess"] <= MAX_EXCESS
    assert excess(found[:500]) < 3 * MAX_EXCESS  # other rows than those of the sample
    assert "efSearch=4 adds" in caplog.text
    assert f"lists are assigned through HNSW, efSearch={assigner.report['ef_search']}" in caplog.text


def test_once_measured_a_list_depends_on_the_row_alone():
    centroids, x = normal(2_000, 16), normal(4_000, 16, 1)
    assigner = ListAssigner(centroids, exact=False)
    whole = assigner(x)
    report = dict(assigner.report)
    with threads(2):
        parts = np.concatenate([assigner(x[i : i + 77]) for i in range(0, 4_000, 77)])
    assert np.array_equal(parts, whole)
    assert assigner.report == report


def test_small_first_calls_are_measured_together():
    centroids, x = normal(2_000, 16), normal(400, 16, 1)
    assigner = ListAssigner(centroids, exact=False)
    for i in range(0, 400, 100):
        assigner(x[i : i + 100])
    assert assigner.report["sample_rows"] == 400


def test_brute_force_where_the_graph_is_never_good_enough(monkeypatch, caplog):
    centroids, x = normal(500, 8), normal(300, 8, 1)
    monkeypatch.setattr(coarse, "MAX_EXCESS", -1.0)
    assigner = ListAssigner(centroids, exact=False)
    with caplog.at_level(logging.WARNING):
        found = assigner(x)
    assert np.array_equal(found, squared_l2(x, centroids).argmin(1))
    assert (assigner.report["method"], assigner.report["excess"]) == ("exact", 0.0)
    assert "brute force" in caplog.text


def test_many_lists_take_the_graph():
    centroids = normal(EXACT_LISTS + 1, 2)
    assert ListAssigner(centroids[:-1]).report["method"] == "exact"
    assert ListAssigner(centroids).report["method"] == "hnsw"


def test_refusals():
    centroids = normal(20, 4)
    bad = normal(10, 4)
    bad[7, 1] = np.nan
    for exact in (True, False):
        with pytest.raises(ValueError, match=r"^vector 7 holds NaN or infinity \(after conversion to float32\)$"):
            ListAssigner(centroids, exact=exact)(bad)
    with pytest.raises(ValueError, match=r"^rows of shape \(10, 3\) for centroids of dimension 4$"):
        ListAssigner(centroids)(bad[:, :3])
    with pytest.raises(ValueError, match=r"^centroids hold NaN or infinity$"):
        ListAssigner(bad)
