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


@settings(max_examples=120, deadline=None)
@given(
    data=st.data(),
    num_queries=st.integers(1, 12),
    num_rows=st.integers(1, 60),
    dim=st.integers(1, 9),
    values=st.integers(1, 6),
    dtype=st.sampled_from(["u1", "i1", "i8", "f2", "f4", "f8"]),
    batch_rows=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_equals_the_slow_loop_with_many_ties(data, num_queries, num_rows, dim, values, dtype, batch_rows, seed):
    rng = np.random.default_rng(seed)
    queries = rng.integers(0, values, (num_queries, dim)).astype(dtype)
    database = rng.integers(0, values, (num_rows, dim)).astype(dtype)
    k = data.draw(st.integers(1, num_rows))
    squared_l2, ids = exact_neighbours(queries, database, k, batch_rows=batch_rows)
    expected_l2, expected_ids = slow_neighbours(queries, database, k)
    assert (squared_l2.dtype, ids.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(squared_l2, expected_l2)


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


def test_duplicates_come_by_smaller_id_however_they_are_batched():
    rng = np.random.default_rng(0)
    database = np.tile(rng.standard_normal((7, 13)).astype(np.float32), (30, 1))
    queries = rng.standard_normal((5, 13)).astype(np.float32)
    expected = exact_neighbours(queries, database, 50)
    assert (np.diff(expected[0], axis=1) >= 0).all()
    for query in range(5):
        same = np.diff(expected[0][query]) == 0
        assert (np.diff(expected[1][query])[same] == 7).all()
        assert same.sum() >= 48
    for batch_rows in (1, 8, 50, 209):
        for got, want in zip(exact_neighbours(queries, database, 50, batch_rows=batch_rows), expected, strict=True):
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


def test_more_queries_than_one_block_and_a_second_of_work():
    rng = np.random.default_rng(0)
    database = rng.integers(0, 256, (20_000, 128), dtype=np.uint8)
    queries = rng.integers(0, 256, (1100, 128), dtype=np.uint8)
    started = time.process_time()
    squared_l2, ids = exact_neighbours(queries, database, 3)
    # 0.3 s on one core of an unloaded machine.
    assert time.process_time() - started < 5
    some = [0, 1023, 1024, 1099]
    expected_l2, expected_ids = slow_neighbours(queries[some], database, 3)
    np.testing.assert_array_equal(ids[some], expected_ids)
    np.testing.assert_array_equal(squared_l2[some], expected_l2)


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
        with pytest.raises(ValueError) as raised:
            exact_neighbours(*arguments, batch_rows=2)
        assert str(raised.value) == message
    with pytest.raises(ValueError, match=r"^batch_rows must be at least 1, not 0$"):
        exact_neighbours(rows, rows, 1, batch_rows=0)
