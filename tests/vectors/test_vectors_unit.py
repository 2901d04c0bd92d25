"""Rows that are normalised as they are read: unit vectors, under the same laws as the rows of a file."""

import pickle

import numpy as np
import pytest

from qinco_lit.vectors import open_vectors, write_vectors
from qinco_lit.vectors.code_info import input_facts
from qinco_lit.vectors.rows import unit_rows

RNG = np.random.default_rng(3)
CASES = [("x.bvecs", "u1"), ("x.fvecs", "f4"), ("x.i8bin", "i1"), ("x.npy", "f8"), ("x.npy", "f2"), ("x.h5:rows", "f4")]


def slow_units(rows):
    """Each row by itself, in float64."""
    units = np.zeros(rows.shape, dtype=np.float32)
    for i, row in enumerate(rows.astype(np.float32).astype(np.float64)):
        norm = float((row**2).sum()) ** 0.5
        units[i] = row / norm if norm > 0 else 0
    return units


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def files(request, tmp_path):
    """Rows, two of them zero, and the file that holds them."""
    name, dtype = request.param
    raw = RNG.integers(0, 100, (60, 7)).astype(dtype)
    raw[[3, 59]] = 0
    write_vectors(tmp_path / name, raw)
    return raw, open_vectors(tmp_path / name)


def test_rows_are_divided_by_their_norms_and_zeros_stay(files):
    raw, vectors = files
    units = vectors.unit()[:]
    np.testing.assert_array_max_ulp(units, slow_units(raw), maxulp=1)
    norms = np.linalg.norm(units.astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, [float(row not in (3, 59)) for row in range(60)], atol=2e-7)
    np.testing.assert_array_equal(vectors[:], raw)


def test_every_way_of_reading_gives_the_same_bits(files):
    _, vectors = files
    units, array = vectors.unit(), vectors.unit()[:]
    assert (units.shape, units.dtype, len(units), units.path) == ((60, 7), np.float32, 60, vectors.path)
    assert (vectors.is_unit, units.is_unit, units.view(1, 2).is_unit) == (False, True, True)
    ids = [59, 0, 3, 3, -1]
    ways = [
        (units[5:50], array[5:50]), (units[50:2:-3], array[50:2:-3]), (units[4], array[4]), (units[ids], array[ids]),
        (units[np.arange(60) % 2 == 0], array[::2]), (units[9:9], array[9:9]), (np.asarray(units), array),
        (np.concatenate(list(units.iter_batches(13))), array), (units.view(10, 30).view(5, 8)[:], array[15:18]),
        (vectors.view(10, 30).unit()[:], array[10:30]), (units.unit()[:], array),
        (pickle.loads(pickle.dumps(units.view(1, 40)))[:], array[1:40]),
    ]  # fmt: skip
    for got, want in ways:
        np.testing.assert_array_equal(got, want)
        assert (got.dtype, got.flags.c_contiguous, got.flags.writeable) == (np.float32, True, True)


def test_a_pickle_holds_no_rows(files):
    units = files[1].unit()
    units[:]
    assert len(pickle.dumps(units)) < 1500


def test_a_row_does_not_depend_on_its_neighbours():
    rows = RNG.standard_normal((3000, 131)).astype(np.float32)
    together = unit_rows(rows)
    np.testing.assert_array_equal(together[1777:1779], unit_rows(rows[1777:1779]))
    np.testing.assert_array_equal(together, np.concatenate([unit_rows(row[None]) for row in rows]))


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1, 1e25, 3e38])
def test_norms_neither_overflow_nor_underflow(scale):
    rows = (scale * RNG.uniform(-1, 1, (50, 20))).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(unit_rows(rows).astype(np.float64), axis=1), 1, rtol=1e-6)


def test_rows_that_are_not_finite_are_not_made_so():
    rows = np.ones((4, 3))
    rows[1, 0], rows[2, 2], rows[3, 1] = np.nan, np.inf, 1e300
    np.testing.assert_array_equal(np.isnan(unit_rows(rows)).any(axis=1), [False, True, True, True])


@pytest.mark.parametrize("num_rows", [50, 9000])
def test_codes_of_unit_vectors_belong_to_other_work(tmp_path, num_rows):
    """Even where normalising changes nothing in the rows that are hashed."""
    axes = np.eye(4, dtype=np.float32)[RNG.integers(0, 4, num_rows)]
    write_vectors(tmp_path / "x.fvecs", axes)
    raw = open_vectors(tmp_path / "x.fvecs")
    np.testing.assert_array_equal(raw.unit()[:], axes)
    facts = [input_facts(raw), input_facts(raw.unit())]
    differing = [name for name in facts[0] if facts[0][name] != facts[1][name]]
    assert differing == ["input_sample_sha256", "input_unit"]
    write_vectors(tmp_path / "x.bvecs", axes.astype(np.uint8))
    assert input_facts(open_vectors(tmp_path / "x.bvecs").unit())["input_dtype"] == "float32"
