import numpy as np
import pytest

from qinco_lit.vectors import code_packing as module
from qinco_lit.vectors.code_packing import distinct_rows, row_keys

rng = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("colliding", [False, True])
def test_each_row_is_taken_from_the_first_that_equals_it(
    dtype: type, colliding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if colliding:
        monkeypatch.setattr(module, "row_keys", lambda rows: np.ones(len(rows), np.uint64))
    rows = rng.integers(0, 3, size=(200, 4)).astype(dtype)
    first, place = distinct_rows(rows)
    np.testing.assert_array_equal(rows[first[place]], rows)
    for row, chosen in zip(rows, first[place], strict=True):
        assert chosen == np.flatnonzero((rows == row).all(axis=1))[0]
    assert len(first) == len(np.unique(rows, axis=0))


def test_no_rows_are_no_distinct_rows() -> None:
    first, place = distinct_rows(np.zeros((0, 3), np.uint8))
    assert len(first) == len(place) == 0


def test_keys_are_those_of_the_values_whatever_their_type_and_never_zero() -> None:
    rows = rng.integers(0, 256, size=(5000, 8))
    keys = row_keys(rows.astype(np.uint8))
    np.testing.assert_array_equal(keys, row_keys(rows.astype(np.int32)))
    assert len(np.unique(keys)) == len(np.unique(rows, axis=0))
    assert row_keys(np.zeros((1, 8), np.uint8)).tolist() == [1]
