from typing import Any

import numpy as np
import pytest
from jaxtyping import UInt64

from qinco_lit.metrics import (
    CodeCounts,
    NearestSoFar,
    SquaredError,
    mean_squared_error,
    recall_at,
)

rng = np.random.default_rng(0)


def test_squared_error_is_a_mean_over_vectors_of_a_sum_over_dimensions() -> None:
    x, x_hat = rng.normal(size=(7, 5)), rng.normal(size=(7, 5)).astype(np.float32)
    total = 0.0
    for i in range(7):
        for j in range(5):
            total += (x[i, j] - float(x_hat[i, j])) ** 2
    assert mean_squared_error(x, x_hat) == pytest.approx(total / 7, rel=1e-12)


def test_squared_error_of_bytes_does_not_wrap_around() -> None:
    x, x_hat = np.array([[0, 255]], dtype=np.uint8), np.array([[255, 0]], dtype=np.uint8)
    assert mean_squared_error(x, x_hat) == 2 * 255**2


def test_squared_error_does_not_depend_on_the_blocks() -> None:
    x, x_hat = rng.normal(size=(101, 4)), rng.normal(size=(101, 4))
    error = SquaredError()
    for start in range(0, 101, 13):
        error.add(x[start : start + 13], x_hat[start : start + 13])
    assert error.mean == pytest.approx(mean_squared_error(x, x_hat), rel=1e-12)


def test_squared_error_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the squared error of 0 vectors is not defined$"):
        mean_squared_error(np.zeros((0, 3)), np.zeros((0, 3)))


def test_recall_equals_a_naive_loop() -> None:
    ids = np.stack([rng.permutation(50)[:20] for _ in range(40)])
    truth = rng.integers(0, 50, size=(40, 3))
    for k, recall in recall_at(ids, truth, (1, 5, 20)).items():
        hits = 0
        for query in range(40):
            # only the first true neighbour counts
            if int(truth[query, 0]) in [int(i) for i in ids[query, :k]]:
                hits += 1
        assert recall == pytest.approx(hits / 40)


def test_recall_beyond_the_results_is_refused() -> None:
    ids = np.zeros((2, 10), dtype=np.int64)
    with pytest.raises(ValueError, match=r"^recall@11 needs 1 <= k <= 10, the number of results per query$"):
        recall_at(ids, ids, (1, 11))
    with pytest.raises(ValueError, match=r"^the recall of 0 queries is not defined$"):
        recall_at(ids[:0], ids[:0], (1,))


def _entropy(codes: Any, codebook_size: int) -> Any:
    counts = CodeCounts(codes.shape[1], codebook_size)
    counts.add(codes)
    return counts.entropy_bits


def test_entropy_of_known_distributions() -> None:
    uniform = np.arange(256, dtype=np.uint8)
    constant = np.full(256, 7, dtype=np.uint8)
    quarter = np.repeat(np.array([0, 1, 2, 2], dtype=np.uint8), 64)  # 1/4, 1/4, 1/2
    entropy = _entropy(np.stack([uniform, constant, quarter], axis=1), 256)
    np.testing.assert_allclose(entropy, [8.0, 0.0, 1.5], atol=1e-12)


def test_counts_over_blocks_and_codewords_never_used() -> None:
    codes = rng.integers(0, 300, size=(500, 3)).astype(np.uint16)
    codes[:, 1] = 299
    counts = CodeCounts(3, 300)
    for start in range(0, 500, 77):
        counts.add(codes[start : start + 77])
    expected = [[int((codes[:, step] == code).sum()) for code in range(300)] for step in range(3)]
    np.testing.assert_array_equal(counts.counts, expected)
    np.testing.assert_allclose(counts.unused_share, [1 - len(set(codes[:, step].tolist())) / 300 for step in range(3)])
    assert counts.unused_share[1] == pytest.approx(299 / 300)
    np.testing.assert_allclose(counts.entropy_bits, _entropy(codes, 300))


def test_codes_beyond_the_codebook_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^codes 0\.\.16 are outside a codebook of 16 codewords$"):
        _entropy(np.array([[0], [16]], dtype=np.uint8), 16)
    with pytest.raises(ValueError, match=r"^codes have 2 steps, expected 3$"):
        CodeCounts(3, 16).add(np.zeros((4, 2), dtype=np.uint8))


def _keys(ids: Any) -> UInt64[np.ndarray, "nq n"]:
    """Of vectors that all differ."""
    return np.asarray(ids).astype(np.uint64) + np.uint64(1)


def test_merged_blocks_equal_one_sort_and_earlier_ids_win_ties() -> None:
    squared_l2 = rng.integers(0, 30, size=(6, 90)).astype(np.float32)  # many ties
    nearest = NearestSoFar(6, 25)
    for start in range(0, 90, 40):
        block = squared_l2[:, start : start + 40]
        order = np.argsort(block, axis=1, kind="stable")[:, :25]
        nearest.add(np.take_along_axis(block, order, axis=1), order + start, _keys(order + start))
    np.testing.assert_array_equal(nearest.ids, np.argsort(squared_l2, axis=1, kind="stable")[:, :25])


def test_the_largest_are_the_nearest_where_larger_is_better() -> None:
    products = rng.integers(-15, 15, size=(6, 90)).astype(np.float32)
    nearest = NearestSoFar(6, 25, largest=True)
    for start in range(0, 90, 40):
        block = products[:, start : start + 40]
        order = np.argsort(-block, axis=1, kind="stable")[:, :25]
        nearest.add(np.take_along_axis(block, order, axis=1), order + start, _keys(order + start))
    expected = np.argsort(-products, axis=1, kind="stable")[:, :25]
    np.testing.assert_array_equal(nearest.ids, expected)
    np.testing.assert_array_equal(nearest.scores, np.take_along_axis(products, expected, axis=1))
    few = NearestSoFar(1, 3, largest=True)
    few.add(np.array([[-7.0]], dtype=np.float32), np.array([[5]]), _keys([[5]]))
    np.testing.assert_array_equal(few.ids, [[5, -1, -1]])
    np.testing.assert_array_equal(few.scores, [[-7.0, -np.inf, -np.inf]])


def test_fewer_vectors_than_asked_leave_places_empty() -> None:
    nearest = NearestSoFar(1, 4)
    nearest.add(np.array([[1.0, 2.0]], dtype=np.float32), np.array([[5, 3]]), _keys([[5, 3]]))
    np.testing.assert_array_equal(nearest.ids, [[5, 3, -1, -1]])
    np.testing.assert_array_equal(nearest.scores, [[1.0, 2.0, np.inf, np.inf]])


@pytest.mark.parametrize("largest", [False, True])
def test_equal_vectors_are_ordered_by_id_whatever_their_scores_are_rounded_to(largest: bool) -> None:
    rows = rng.integers(0, 12, size=90)  # many equal ones
    exact = rng.normal(size=(6, 12))[:, rows].astype(np.float32)
    rounded = exact * (1 + np.float32(2e-7) * rng.integers(-1, 2, size=exact.shape).astype(np.float32))
    sign = -1 if largest else 1
    for block_size in (90, 40, 7):
        nearest = NearestSoFar(6, 25, largest=largest)
        for start in range(0, 90, block_size):
            stop = min(start + block_size, 90)
            # within a block equal vectors have equal scores; across blocks they have not
            same = np.stack(
                [rounded[:, start + np.flatnonzero(rows[start:stop] == row)[0]] for row in rows[start:stop]]
            )
            order = np.argsort(sign * same.T, axis=1, kind="stable")[:, :25]
            keys = rows[start:stop].astype(np.uint64)[order] + np.uint64(1)
            nearest.add(np.take_along_axis(same.T, order, axis=1), order + start, keys)
        np.testing.assert_array_equal(nearest.ids, np.argsort(sign * exact, axis=1, kind="stable")[:, :25])
