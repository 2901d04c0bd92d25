import struct

import h5py
import numpy as np
import pytest

from qinco_lit.vectors import open_vectors, write_vectors


def bvecs(*dims):
    return b"".join(struct.pack("<i", dim) + bytes(dim) for dim in dims)


def refused(path, error=ValueError):
    with pytest.raises(error) as raised:
        open_vectors(path)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


FILES = {
    "unknown suffix": (
        "x.txt",
        b"1",
        "unknown suffix '.txt'; known: .fvecs .bvecs .ivecs .fbin .u8bin .i8bin .ibin .npy .hdf5:DATASET .h5:DATASET "
        ".parquet .arrow .feather",
    ),
    "empty record file": ("x.bvecs", b"", "empty file (0 bytes)"),
    "empty bin file": ("x.fbin", b"", "empty file (0 bytes)"),
    "empty npy file": ("x.npy", b"", "empty file (0 bytes)"),
    "no dimension": ("x.fvecs", b"abc", "truncated, 3 bytes cannot hold the 4-byte dimension of a record"),
    "truncated record": (
        "x.bvecs",
        bvecs(8, 8, 8)[:-5],
        "truncated, 31 bytes are 2 records of 12 bytes (dimension 8) and 7 bytes more",
    ),
    "truncated first record": (
        "x.fvecs",
        struct.pack("<i", 8) + bytes(8),
        "truncated, 12 bytes are 0 records of 36 bytes (dimension 8) and 12 bytes more",
    ),
    "second record differs": (
        "x.bvecs",
        bvecs(8, 7, 9, 8),
        "record 1 says dimension 7, record 0 says 8; the file is corrupt or not .bvecs",
    ),
    "last record differs": (
        "x.bvecs",
        bvecs(*[8] * 999) + struct.pack("<i", 5) + bytes(8),
        "record 999 says dimension 5, record 0 says 8; the file is corrupt or not .bvecs",
    ),
    "zero dimension": (
        "x.ivecs",
        bytes(8),
        "first record says dimension 0, not in 1..1048576; is it really .ivecs?",
    ),
    "negative dimension": (
        "x.ivecs",
        b"\xff" * 8,
        "first record says dimension -1, not in 1..1048576; is it really .ivecs?",
    ),
    "absurd dimension": (
        "x.fbin",
        struct.pack("<II", 1, 2**31) + bytes(4),
        "header says dimension 2147483648, not in 1..1048576; is it really .fbin?",
    ),
    "zero bin dimension": (
        "x.u8bin",
        struct.pack("<II", 3, 0),
        "header says dimension 0, not in 1..1048576; is it really .u8bin?",
    ),
    "no bin rows": ("x.u8bin", struct.pack("<II", 0, 4), "no vectors, the header says 0 rows of dimension 4"),
    "short bin header": ("x.i8bin", bytes(7), "truncated, 7 bytes cannot hold the 8-byte header"),
    "header counts too many": (
        "x.u8bin",
        struct.pack("<II", 10**9, 128) + bytes(128 * 10),
        "the header says 1000000000 x 128 (128000000008 bytes), but the file has 1288 bytes, which fit 10 rows; "
        "download it again or correct the header",
    ),
    "header counts too few": (
        "x.fbin",
        struct.pack("<II", 2, 4) + bytes(16 * 3),
        "the header says 2 x 4 (40 bytes), but the file has 56 bytes, which fit 3 rows; "
        "download it again or correct the header",
    ),
    "neither ids nor ground truth": (
        "x.ibin",
        struct.pack("<II", 2, 4) + bytes(48),
        "the header says 2 x 4 (40 or 72 bytes), but the file has 56 bytes, which fit 3 rows; "
        "download it again or correct the header",
    ),
    "not npy": (
        "x.npy",
        b"PK\x03\x04 an archive",
        "not a .npy file (the magic string is not correct; expected b'\\x93NUMPY', got b'PK\\x03\\x04 a')",
    ),
    "no HDF5 signature": ("x.hdf5", b"nothing", "not an HDF5 file (bad signature)"),
}


@pytest.mark.parametrize("name", FILES)
def test_malformed_files_say_what_is_wrong_with_numbers(tmp_path, name):
    file, content, message = FILES[name]
    (tmp_path / file).write_bytes(content)
    assert refused(f"{tmp_path}/{file}") == message


ARRAYS = {
    "Fortran order": (
        np.asfortranarray(np.ones((3, 2))),
        "Fortran order, shape (3, 2); save it again with np.ascontiguousarray",
    ),
    "object": (
        np.array([[None, 1]], dtype=object),
        "object dtype; save it as numbers, for example array.astype(np.float32)",
    ),
    "text": (
        np.array([["a", "b"]]),
        "dtype <U1 is not numeric; vectors are integers or floats of at most 8 bytes",
    ),
    "complex": (
        np.ones((1, 2), dtype=complex),
        "dtype complex128 is not numeric; vectors are integers or floats of at most 8 bytes",
    ),
    "one dimension": (np.ones(3), "1-dimensional, shape (3,); vectors are a matrix (rows, dim)"),
    "three dimensions": (np.ones((3, 2, 1)), "3-dimensional, shape (3, 2, 1); vectors are a matrix (rows, dim)"),
    "no rows": (np.ones((0, 4)), "no vectors, shape (0, 4)"),
    "no columns": (np.ones((4, 0)), "no vectors, shape (4, 0)"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_npy_that_are_no_matrix_of_numbers_are_refused(tmp_path, name):
    array, message = ARRAYS[name]
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    assert refused(f"{tmp_path}/x.npy") == message


@pytest.mark.parametrize("name", [name for name in ARRAYS if name not in ("Fortran order", "object", "text")])
def test_hdf5_that_are_no_matrix_of_numbers_are_refused(tmp_path, name):
    array, message = ARRAYS[name]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["train"] = array
    assert refused(f"{tmp_path}/x.h5:train") == message


def test_a_single_row_or_column_has_no_order_to_refuse(tmp_path):
    for shape in ((1, 5), (5, 1)):
        rows = np.asfortranarray(np.arange(5.0).reshape(shape))
        np.save(tmp_path / "x.npy", rows)
        np.testing.assert_array_equal(open_vectors(tmp_path / "x.npy")[:], rows)


def test_truncated_npy_says_how_many_rows_fit(tmp_path):
    rows = np.ones((10, 4), dtype=np.float32)
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-40])
    assert refused(f"{tmp_path}/x.npy") == (
        "truncated, shape (10, 4) of float32 needs 288 bytes, but the file has 248 bytes, which fit 7 rows"
    )
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:40])
    assert refused(f"{tmp_path}/x.npy").startswith("not a .npy file (")


def test_truncated_hdf5_is_refused(tmp_path):
    write_vectors(f"{tmp_path}/x.hdf5:train", np.ones((1000, 4)))
    content = (tmp_path / "x.hdf5").read_bytes()
    (tmp_path / "x.hdf5").write_bytes(content[:5000])
    message = refused(f"{tmp_path}/x.hdf5:train")
    assert message.startswith("unreadable HDF5 file (")
    assert "eof = 5000" in message


def test_missing_file_and_folder_in_place_of_a_file(tmp_path):
    assert refused(f"{tmp_path}/x.fvecs", FileNotFoundError) == "no such file"
    assert refused(f"{tmp_path}/x.hdf5:train", FileNotFoundError) == "no such file"
    (tmp_path / "d.npy").mkdir()
    assert refused(f"{tmp_path}/d.npy", FileNotFoundError).startswith("a folder without files of vectors")


def test_a_missing_dataset_lists_those_there(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["train"] = file["neighbors"] = np.ones((2, 2))
        file["group/test"] = np.ones((2, 2))
    path = f"{tmp_path}/x.hdf5"
    listed = "datasets there: group/test neighbors train"
    assert refused(f"{path}:tran") == f"no dataset 'tran'; {listed}"
    assert refused(f"{path}:group") == f"no dataset 'group'; {listed}"
    assert refused(path) == f"name a dataset, {path}:DATASET; {listed}"
    assert refused(f"{path}:") == f"name a dataset, {path}:DATASET; {listed}"
    with h5py.File(tmp_path / "none.h5", "w"):
        pass
    assert refused(f"{tmp_path}/none.h5:train") == "no dataset 'train'; datasets there: none"


def test_a_file_that_changed_size_since_it_was_opened_is_refused(tmp_path):
    path = f"{tmp_path}/x.u8bin"
    write_vectors(path, np.ones((10, 4), dtype=np.uint8))
    vectors = open_vectors(path)
    write_vectors(path, np.ones((9, 4), dtype=np.uint8))
    with pytest.raises(ValueError) as raised:
        vectors[0]
    assert str(raised.value) == f"{path}: 48 bytes when opened, now 44; reopen it"
