"""What is known of the papers' sets without their files, and what their files say when they are there."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.catalogue import CATALOGUE, describe
from qinco_lit.vectors import write_vectors
from qinco_lit.vectors.rows import unit_rows


@pytest.mark.parametrize(("name", "size"), [(name, size) for name, each in CATALOGUE.items() for size in each.sizes])
def test_every_set_is_known_without_files(tmp_path: Path, name: str, size: str):
    facts = describe(name=name, root=str(tmp_path), size=size)
    assert facts.num_database == {"1M": 10**6, "1B": 10**9}[size]
    assert facts.rows is None
    assert facts.database_bytes == pytest.approx(
        facts.num_database * (facts.dim * np.dtype(facts.dtype).itemsize + 4), rel=0.04
    )
    assert facts.epoch_size == 10**7


def test_limits_and_validation_rows_count(tmp_path: Path):
    options = {"name": "bigann", "root": str(tmp_path), "size": "1B"}
    facts = describe(**options, limit_database=1000, limit_train=5000, cache_dir="x")
    assert (facts.num_database, facts.num_train, facts.epoch_size) == (1000, 5000, 5000)
    assert describe(**options, num_val=7).num_train == 10**8 - 7
    unknown = describe(name="contriever", root=str(tmp_path))
    assert (unknown.num_train, unknown.epoch_size) == (None, 10**7)


def test_a_file_that_is_there_counts(tmp_path: Path):
    rows = np.random.default_rng(0).integers(256, size=(50, 128), dtype=np.uint8)
    write_vectors(tmp_path / "bigann_learn_10M10k.bvecs", rows)
    facts = describe(name="bigann", root=str(tmp_path), num_val=20)
    assert (facts.num_database, facts.num_train) == (10**6, 30)
    assert facts.rows is not None
    write_vectors(tmp_path / "bigann1M.bvecs", rows[:40])
    facts = describe(name="bigann", root=str(tmp_path))
    assert (facts.num_database, facts.database_bytes) == (40, 40 * 132)
    assert facts.rows is not None
    np.testing.assert_array_equal(facts.rows[:], rows[:40])


def test_cosine_plans_with_unit_vectors(tmp_path: Path):
    options = {"name": "bigann", "root": str(tmp_path), "metric": "cosine"}
    assert (describe(**options).dtype, describe(**{**options, "metric": "ip"}).dtype) == ("float32", "uint8")
    rows = np.random.default_rng(0).integers(256, size=(40, 128), dtype=np.uint8)
    write_vectors(tmp_path / "bigann1M.bvecs", rows)
    facts = describe(**options)
    assert (facts.dtype, facts.database_bytes) == ("float32", 40 * 132)
    assert facts.rows is not None
    np.testing.assert_array_equal(facts.rows[:], unit_rows(rows))


def test_unknown_sets_and_sizes_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^data set bigann has no size '2B': choose data.size=1M or 1B$"):
        describe(name="bigann", root=str(tmp_path), size="2B")
    with pytest.raises(ValueError, match=r"^data set 'sift' is not in the catalogue: choose from bigann, "):
        describe(name="sift", root=str(tmp_path))
