"""The ids of an index are those of a set, however they came and went."""

import numpy as np
import pytest

from qinco_lit.search.index import id_set
from qinco_lit.search.index.id_set import IdSet


@pytest.mark.parametrize("largest", [12, 60, 400])
@pytest.mark.parametrize("late", [0, 3, 10**6])  # changes are merged at once, now and then, never
def test_what_comes_and_goes_is_as_in_a_set(largest: int, late: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_set, "_FEWEST_LATE", late)
    rng, asked = np.random.default_rng(largest), np.arange(-2, largest + 2)
    for _ in range(20):
        first = rng.choice(largest, rng.integers(0, largest), replace=False)
        ids, expected = IdSet(first), set(first.tolist())
        for _ in range(20):
            some = rng.integers(0, largest, rng.integers(0, 5))
            if rng.random() < 0.5:
                ids.remove(some)
                expected -= set(some.tolist())
            else:
                ids.add(np.array(sorted(set(some.tolist()) - expected), np.int64))
                expected |= set(some.tolist())
            assert asked[ids.has(asked)].tolist() == sorted(expected)
            assert len(ids) == len(expected)


def test_positions_are_one_run_and_the_largest_id_is_one_of_them() -> None:
    last = 2**63 - 1
    ids = IdSet(np.array([last, *range(1000), last - 1]))
    assert len(ids._starts) == 2
    np.testing.assert_array_equal(ids.has(np.array([0, 999, 1000, last - 2, last - 1, last])), [1, 1, 0, 0, 1, 1])
