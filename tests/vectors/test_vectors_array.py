"""Arrays in memory are vectors like those of files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qinco_lit.vectors import as_vectors_file, open_vectors, write_vectors

ROWS = np.arange(60, dtype=np.float32).reshape(12, 5)


@pytest.mark.parametrize("key", [3, slice(2, 9), slice(None, None, 3), np.array([5, 1, 1]), -1], ids=str)
def test_an_array_is_read_like_a_file_of_the_same_rows(key, tmp_path: Path) -> None:
    write_vectors(tmp_path / "x.fvecs", ROWS)
    from_file, from_array = open_vectors(tmp_path / "x.fvecs"), as_vectors_file(ROWS)
    assert (from_array.shape, from_array.dtype) == (from_file.shape, from_file.dtype)
    np.testing.assert_array_equal(from_array[key], from_file[key])
    np.testing.assert_array_equal(from_array.view(2, 7).unit()[1:3], from_file.view(2, 7).unit()[1:3])
    assert from_array[key].flags.c_contiguous
    assert not np.shares_memory(from_array[key], ROWS)


@pytest.mark.parametrize(
    "x",
    [
        *(torch.from_numpy(ROWS), torch.from_numpy(ROWS).requires_grad_(), torch.from_numpy(ROWS).bfloat16()),
        *(ROWS.tolist(), ROWS.astype(">f4"), np.asfortranarray(ROWS)),
    ],
    ids=str,
)
def test_tensors_lists_and_other_layouts_are_the_same_vectors(x) -> None:
    np.testing.assert_array_equal(as_vectors_file(x)[:], ROWS)


def test_files_and_paths_are_what_they_are(tmp_path: Path) -> None:
    write_vectors(tmp_path / "x.npy", ROWS)
    opened = open_vectors(tmp_path / "x.npy")
    assert as_vectors_file(opened) is opened
    np.testing.assert_array_equal(as_vectors_file(str(tmp_path / "x.npy"))[:], ROWS)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (ROWS[0], r"database has shape \(5,\): give vectors \(n, dim\)"),
        (ROWS[:0], r"database has shape \(0, 5\)"),
        (np.array([["a", "b"]]), "database"),
        ([[1.0], [1.0, 2.0]], "database: no array"),
        (None, "database"),
    ],
)
def test_what_is_no_array_of_vectors_is_refused_in_one_line(x, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        as_vectors_file(x, "database")
    assert "\n" not in str(error.value)
