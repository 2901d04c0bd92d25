"""The additive scan against brute force over the additive reconstructions."""

from typing import Any

import faiss
import numpy as np
import pytest

from qinco_lit.search.scan import AdditiveScan

DIM, STEPS, LISTS, ROWS = 12, 3, 20, 700


def problem(codebook_size: int, *, offset: float = 0.0) -> dict[str, Any]:
    rng = np.random.default_rng(codebook_size)
    centroids = np.float32(rng.normal(size=(LISTS, DIM)) * 5 + offset)
    codebooks = np.float32(rng.normal(size=(STEPS, codebook_size, DIM)) * np.array([3, 2, 1])[:, None, None])
    list_ids = np.int32(rng.integers(0, LISTS - 1, ROWS))  # the last list stays empty
    codes = rng.integers(0, codebook_size, (ROWS, STEPS)).astype(np.uint8 if codebook_size <= 256 else np.uint16)
    x_hat = centroids[list_ids] + sum(codebooks[step][codes[:, step]] for step in range(STEPS))
    queries = np.float32(x_hat[:30] + rng.normal(size=(30, DIM)))
    ids = rng.permutation(10 * ROWS)[:ROWS]
    return {
        "centroids": centroids, "codebooks": codebooks, "list_ids": list_ids, "codes": codes, "ids": ids,
        "x_hat": x_hat, "queries": queries,
    }  # fmt: skip


def scan_of(given: dict[str, Any], *, inner_product: bool = False) -> AdditiveScan:
    metric = faiss.METRIC_INNER_PRODUCT if inner_product else faiss.METRIC_L2
    coarse = faiss.IndexHNSWFlat(DIM, 32, metric)
    coarse.add(given["centroids"])
    scan = AdditiveScan(coarse, given["codebooks"], inner_product=inner_product)
    scan.add(given["list_ids"], given["codes"], given["ids"])
    return scan


def brute_force(given: dict[str, Any], *, inner_product: bool) -> np.ndarray:
    queries, x_hat = given["queries"].astype(np.float64), given["x_hat"].astype(np.float64)
    if inner_product:
        return np.asarray(queries @ x_hat.T)
    return np.asarray(((queries[:, None] - x_hat[None]) ** 2).sum(-1))


@pytest.mark.parametrize("inner_product", [False, True])
@pytest.mark.parametrize("codebook_size", [5, 16, 200, 256, 1000])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_all_lists_give_the_best_additive_reconstructions(
    codebook_size: int, offset: float, inner_product: bool
) -> None:
    given = problem(codebook_size, offset=offset)
    found = scan_of(given, inner_product=inner_product).search(given["queries"], 10, nprobe=LISTS, ef_search=100)
    scores = brute_force(given, inner_product=inner_product)
    best = np.sort(scores, axis=1)[:, ::-1][:, :10] if inner_product else np.sort(scores, axis=1)[:, :10]
    # squared L2 is off by half a step of the 16-bit norm (around the mean), products by float32
    around = given["centroids"] - given["centroids"].mean(0)
    longest = np.linalg.norm(around, axis=1).max() + np.linalg.norm(given["codebooks"], axis=2).max(1).sum()
    tolerance = 1e-6 * np.abs(scores).max() if inner_product else 0.51 * longest**2 / 2**16
    np.testing.assert_allclose(found.scores, best, rtol=0, atol=tolerance)


def test_candidates_come_with_their_lists_and_codes() -> None:
    given = problem(1000)
    found = scan_of(given).search(given["queries"], 10, nprobe=5, ef_search=64)
    row_of = {int(id_): row for row, id_ in enumerate(given["ids"])}
    rows = np.vectorize(row_of.__getitem__)(found.ids)
    np.testing.assert_array_equal(found.list_ids, given["list_ids"][rows])
    np.testing.assert_array_equal(found.codes, given["codes"][rows])
    assert found.codes.dtype == np.uint16


def test_only_the_nearest_lists_are_visited() -> None:
    given = problem(16)
    found = scan_of(given).search(given["queries"], 400, nprobe=3, ef_search=64)
    order = np.argsort(((given["queries"][:, None] - given["centroids"][None]) ** 2).sum(-1), axis=1)[:, :3]
    for query, visited in enumerate(order):
        inside = set(given["ids"][np.isin(given["list_ids"], visited)])
        assert set(found.ids[query][found.ids[query] >= 0]) == inside


def test_short_lists_are_padded() -> None:
    given = problem(16)
    for inner_product, worst in ((False, np.inf), (True, -np.inf)):
        found = scan_of(given, inner_product=inner_product).search(given["queries"], ROWS + 7, nprobe=99, ef_search=1)
        assert (found.ids[:, ROWS:] == -1).all()
        assert (found.scores[:, ROWS:] == worst).all()
        assert (np.sort(found.ids[:, :ROWS]) == np.sort(given["ids"])).all()


def test_no_query_gives_no_result() -> None:
    given = problem(16)
    found = scan_of(given).search(given["queries"][:0], 4, nprobe=3, ef_search=16)
    assert found.ids.shape == (0, 4)
    assert found.codes.shape == (0, 4, STEPS)


def test_a_batch_is_its_queries_one_by_one_and_threads_change_nothing() -> None:
    given = problem(256)
    scan = scan_of(given)
    together = scan.search(given["queries"], 20, nprobe=4, ef_search=64)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        alone = [scan.search(query[None], 20, nprobe=4, ef_search=64) for query in given["queries"]]
    finally:
        faiss.omp_set_num_threads(before)
    for field in ("ids", "list_ids", "codes"):
        np.testing.assert_array_equal(getattr(together, field), np.concatenate([getattr(one, field) for one in alone]))


@pytest.mark.parametrize("codebook_size", [5, 256, 1000])
def test_contents_are_what_was_added_and_not_removed(codebook_size: int) -> None:
    given = problem(codebook_size)
    scan = scan_of(given)
    gone = given["ids"][::3]
    assert scan.remove(np.append(gone, 10**9)) == len(gone)
    list_ids, codes, ids = (np.concatenate(part) for part in zip(*scan.contents(), strict=True))
    kept = np.setdiff1d(np.arange(ROWS), np.arange(ROWS)[::3])
    order, expected = np.argsort(ids), kept[np.argsort(given["ids"][kept])]
    np.testing.assert_array_equal(ids[order], given["ids"][expected])
    np.testing.assert_array_equal(list_ids[order], given["list_ids"][expected])
    np.testing.assert_array_equal(codes[order], given["codes"][expected])
    assert len(scan) == len(kept)
    assert scan.list_sizes().tolist() == np.bincount(given["list_ids"][kept], minlength=LISTS).tolist()
