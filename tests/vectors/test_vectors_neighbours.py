import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinco_lit.vectors import exact_neighbours, open_vectors, write_vectors


def slow_neighbours(queries, database, k):
    """One float64 loop: squared L2 from differences, ties by smaller id."""
    squared_l2, ids = [], []
    for query in queries.astype(np.float64):
        distances = [float(((query - row) ** 2).sum()) for row in database.astype(np.float64)]
        order = sorted(range(len(database)), key=lambda row: (distances[row], row))[:k]
        ids.append(order)
        squared_l2.append([distances[row] for row in order])
    return np.array(squared_l2), np.array(ids)


def slow_inner_products(queries, database, k):
    """One float64 loop: the largest inner products, ties by smaller id."""
    largest, ids = [], []
    for query in queries.astype(np.float64):
        products = [float((query * row).sum()) for row in database.astype(np.float64)]
        order = sorted(range(len(database)), key=lambda row: (-products[row], row))[:k]
        ids.append(order)
        largest.append([products[row] for row in order])
    return np.array(largest), np.array(ids)


SLOW = {"l2": slow_neighbours, "ip": slow_inner_products}


@settings(max_examples=120)
@given(
    data=st.data(),
    num_queries=st.integers(1, 12),
    num_rows=st.integers(1, 60),
    dim=st.integers(1, 9),
    values=st.integers(1, 6),
    dtype=st.sampled_from(["u1", "i1", "i8", "f2", "f4", "f8"]),
    batch_rows=st.integers(1, 70),
    seed=st.integers(0, 99),
    metric=st.sampled_from(["l2", "ip"]),
)
def test_equals_the_slow_loop_with_many_ties(data, num_queries, num_rows, dim, values, dtype, batch_rows, seed, metric):
    rng = np.random.default_rng(seed)
    lowest = 0 if dtype == "u1" else -values // 2
    queries = rng.integers(lowest, lowest + values, (num_queries, dim)).astype(dtype)
    database = rng.integers(lowest, lowest + values, (num_rows, dim)).astype(dtype)
    k = data.draw(st.integers(1, num_rows))
    scores, ids = exact_neighbours(queries, database, k, metric=metric, batch_rows=batch_rows)
    expected_scores, expected_ids = SLOW[metric](queries, database, k)
    assert (scores.dtype, ids.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1, 1e6), (1e-3, 100), (1e-24, 0), (1e18, 0), (1e25, 0)])
def test_neighbours_survive_cancellation_underflow_and_overflow(scale, offset, dtype):
    rng = np.random.default_rng(0)
    queries = (scale * rng.standard_normal((20, 24)) + offset).astype(dtype)
    database = (scale * rng.standard_normal((500, 24)) + offset).astype(dtype)
    squared_l2, ids = exact_neighbours(queries, database, 10, batch_rows=100)
    expected_l2, expected_ids = slow_neighbours(queries, database, 10)
    np.testing.assert_array_equal(ids, expected_ids)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(squared_l2, expected_l2.astype(np.float32), rtol=2e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("scale", "offset", "query_scale"),
    [
        (1, 0, 1),
        (1, 1e6, 1),
        (1e-3, 100, 1),
        (1e-24, 0, 1),
        (1e18, 0, 1),
        (1e25, 0, 1),
        (1e-24, 0, 1e-24),
        (1e30, 0, 1e-30),
    ],
)
def test_inner_products_survive_cancellation_underflow_and_overflow(scale, offset, query_scale, dtype):
    rng = np.random.default_rng(0)
    queries = (query_scale * rng.standard_normal((20, 24))).astype(dtype)
    database = (scale * rng.standard_normal((500, 24)) + offset).astype(dtype)
    products, ids = exact_neighbours(queries, database, 10, metric="ip", batch_rows=100)
    expected, expected_ids = slow_inner_products(queries, database, 10)
    np.testing.assert_array_equal(ids, expected_ids)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(products, expected.astype(np.float32), rtol=2e-7, atol=1e-45)


def test_components_below_float32_count_in_inner_products_with_large_ones():
    rng = np.random.default_rng(0)
    queries, database = 1e-60 * rng.standard_normal((9, 24)), 1e30 * rng.standard_normal((200, 24))
    for some, others in ((queries, database), (database[:9], 1e-30 * queries[:5])):
        _, ids = exact_neighbours(some, others, 5, metric="ip", batch_rows=50)
        np.testing.assert_array_equal(ids, slow_inner_products(some, others, 5)[1])


def test_the_largest_inner_products_are_not_the_nearest_vectors():
    database = np.array([[1, 0], [10, 9], [-20, 0]], dtype=np.float32)
    queries = np.array([[1, 0]], dtype=np.float32)
    products, ids = exact_neighbours(queries, database, 3, metric="ip")
    np.testing.assert_array_equal(ids, [[1, 0, 2]])
    np.testing.assert_array_equal(products, [[10, 1, -20]])
    np.testing.assert_array_equal(exact_neighbours(queries, database, 3)[1], [[0, 1, 2]])


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_duplicates_come_by_smaller_id_however_they_are_batched(metric):
    rng = np.random.default_rng(0)
    database = np.tile(rng.standard_normal((7, 13)).astype(np.float32), (30, 1))
    queries = rng.standard_normal((5, 13)).astype(np.float32)
    expected = exact_neighbours(queries, database, 50, metric=metric)
    order = np.diff(expected[0], axis=1)
    assert (order >= 0).all() if metric == "l2" else (order <= 0).all()
    for query in range(5):
        same = np.diff(expected[0][query]) == 0
        assert (np.diff(expected[1][query])[same] == 7).all()
        assert same.sum() >= 48
    for batch_rows in (1, 8, 50, 209):
        found = exact_neighbours(queries, database, 50, metric=metric, batch_rows=batch_rows)
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_file_gives_what_its_array_gives(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (3000, 20), dtype=np.uint8)
    write_vectors(tmp_path / "x.bvecs", rows)
    vectors = open_vectors(tmp_path / "x.bvecs")
    from_file = exact_neighbours(vectors.view(0, 40), vectors.view(40, 3000), 5, batch_rows=777)
    from_array = exact_neighbours(rows[:40], rows[40:], 5)
    for got, want in zip(from_file, from_array, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_more_queries_than_one_block_and_a_second_of_work(metric):
    rng = np.random.default_rng(0)
    database = rng.integers(0, 256, (20_000, 128), dtype=np.uint8)
    queries = rng.integers(0, 256, (1100, 128), dtype=np.uint8)
    started = time.process_time()
    scores, ids = exact_neighbours(queries, database, 3, metric=metric)
    # 0.3 s on one core of an unloaded machine.
    assert time.process_time() - started < 5
    some = [0, 1023, 1024, 1099]
    expected_scores, expected_ids = SLOW[metric](queries[some], database, 3)
    np.testing.assert_array_equal(ids[some], expected_ids)
    np.testing.assert_array_equal(scores[some], expected_scores)


def test_mistakes_are_one_line_with_numbers():
    rows = np.ones((5, 4), dtype=np.float32)
    bad = rows.copy()
    bad[3, 1] = np.nan
    cases = [
        ((rows, rows, 6), "k=6 is not in 1..5, the number of database vectors"),
        ((rows, rows, 0), "k=0 is not in 1..5, the number of database vectors"),
        ((rows, rows[:, :3], 1), "queries have dimension 4, the database has 3"),
        ((rows[0], rows, 1), "queries (4,) and database (5, 4) must be matrices (rows, dim)"),
        ((bad, rows, 1), "query 3 holds NaN or infinity; remove such vectors first"),
        ((rows, np.concatenate([rows, bad]), 1), "database vector 8 holds NaN or infinity; remove such vectors first"),
    ]
    for arguments, message in cases:
        for metric in ("l2", "ip"):
            with pytest.raises(ValueError) as raised:
                exact_neighbours(*arguments, metric=metric, batch_rows=2)
            assert str(raised.value) == message
    with pytest.raises(ValueError, match=r"^metric=cosine: give l2, or ip \(for cosine, of vectors of unit length\)$"):
        exact_neighbours(rows, rows, 1, metric="cosine")
    with pytest.raises(ValueError, match=r"^batch_rows must be at least 1, not 0$"):
        exact_neighbours(rows, rows, 1, batch_rows=0)
