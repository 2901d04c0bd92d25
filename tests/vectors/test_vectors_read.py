import pickle
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qinco_lit.vectors import mapped, open_vectors, write_vectors

FIXED = {"fvecs": "f4", "bvecs": "u1", "ivecs": "i4", "fbin": "f4", "u8bin": "u1", "i8bin": "i1", "ibin": "i4"}
FREE = ["npy", "hdf5:train", "h5:group/train"]
FREE_DTYPES = ["u1", "i1", "u2", "i4", "i8", "f2", "f4", "f8"]
FORMATS = [*FIXED.items(), *((suffix, dtype) for suffix in FREE for dtype in FREE_DTYPES)]


def random_rows(num_rows, dim, dtype, seed=0):
    bits = np.random.default_rng(seed).integers(0, 256, num_rows * dim * np.dtype(dtype).itemsize, dtype=np.uint8)
    rows = bits.view(dtype).reshape(num_rows, dim)
    return np.where(np.isfinite(rows), rows, np.ones((), dtype)) if np.dtype(dtype).kind == "f" else rows


def same(got, expected):
    """Equal values, and a fresh array that torch takes without a warning."""
    assert got.dtype == expected.dtype
    assert got.dtype.isnative
    assert got.flags.c_contiguous
    assert got.flags.writeable
    np.testing.assert_array_equal(got, expected)


@st.composite
def indexed_matrices(draw):
    suffix, dtype = draw(st.sampled_from(FORMATS))
    num_rows, dim = draw(st.integers(1, 60)), draw(st.integers(1, 20))
    bound = st.none() | st.integers(-num_rows - 3, num_rows + 3)
    step = st.none() | st.integers(-7, 7).filter(bool)
    slices = draw(st.lists(st.builds(slice, bound, bound, step), min_size=1, max_size=5))
    ids = draw(st.lists(st.integers(-num_rows, num_rows - 1), max_size=40))
    return suffix, random_rows(num_rows, dim, dtype, draw(st.integers(0, 9))), slices, ids


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=indexed_matrices(), batch_size=st.integers(1, 70), streamed=st.booleans())
def test_a_file_indexes_like_the_array_it_was_written_from(tmp_path, case, batch_size, streamed):
    suffix, rows, slices, ids = case
    path = tmp_path / f"x.{suffix}"
    batches = (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))
    write_vectors(path, batches if streamed else rows)
    vectors = open_vectors(path)
    assert (vectors.shape, vectors.dtype, len(vectors), vectors.ndim) == (rows.shape, rows.dtype, len(rows), 2)
    assert vectors.path == str(path)
    for key in slices:
        same(vectors[key], rows[key])
    same(vectors[np.array(ids, dtype=np.int64)], rows[np.array(ids, dtype=np.int64)])
    same(vectors[ids], rows[np.array(ids, dtype=np.int64)])
    mask = np.arange(len(rows)) % 3 == 1
    same(vectors[mask], rows[mask])
    for row in ids[:3]:
        same(vectors[row], rows[row])
    same(np.asarray(vectors), rows)
    batches = list(vectors.iter_batches(batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    same(np.concatenate(batches), rows)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_views_of_views_are_slices_of_slices(tmp_path, data):
    suffix, rows, slices, _ = data.draw(indexed_matrices())
    write_vectors(tmp_path / f"x.{suffix}", rows)
    view, expected = open_vectors(tmp_path / f"x.{suffix}"), rows
    for _ in range(2):
        start, stop = data.draw(st.integers(-70, 70)), data.draw(st.integers(-70, 70))
        view, expected = view.view(start, stop), expected[start:stop]
        assert view.shape == expected.shape
    for key in slices:
        same(view[key], expected[key])
    same(pickle.loads(pickle.dumps(view))[:], expected)


@pytest.mark.parametrize(
    ("suffix", "code", "dtype"), [("fvecs", "f", "f4"), ("bvecs", "B", "u1"), ("ivecs", "i", "i4")]
)
def test_record_files_are_dimension_then_numbers(tmp_path, suffix, code, dtype):
    rows = np.random.default_rng(0).integers(0, 256, (5, 3)).astype(dtype)
    packed = b"".join(struct.pack(f"<i3{code}", 3, *row.tolist()) for row in rows)
    (tmp_path / f"hand.{suffix}").write_bytes(packed)
    same(open_vectors(tmp_path / f"hand.{suffix}")[:], rows)
    write_vectors(tmp_path / f"written.{suffix}", rows)
    assert (tmp_path / f"written.{suffix}").read_bytes() == packed


@pytest.mark.parametrize(
    ("suffix", "code", "dtype"), [("fbin", "f", "f4"), ("u8bin", "B", "u1"), ("i8bin", "b", "i1"), ("ibin", "i", "i4")]
)
def test_bin_files_are_counts_then_numbers(tmp_path, suffix, code, dtype):
    rows = np.random.default_rng(0).integers(0, 128, (5, 3)).astype(dtype)
    packed = struct.pack(f"<II15{code}", 5, 3, *rows.ravel().tolist())
    (tmp_path / f"hand.{suffix}").write_bytes(packed)
    same(open_vectors(tmp_path / f"hand.{suffix}")[:], rows)
    write_vectors(tmp_path / f"written.{suffix}", rows)
    assert (tmp_path / f"written.{suffix}").read_bytes() == packed


def test_ibin_with_distances_behind_the_ids_opens_the_ids(tmp_path):
    ids = np.arange(12, dtype=np.int32).reshape(4, 3)
    distances = np.full((4, 3), 0.5, dtype=np.float32)
    (tmp_path / "gt.ibin").write_bytes(struct.pack("<II", 4, 3) + ids.tobytes() + distances.tobytes())
    same(open_vectors(tmp_path / "gt.ibin")[:], ids)


def test_npy_files_are_numpys_own(tmp_path):
    rows = random_rows(9, 4, "f8")
    write_vectors(tmp_path / "x.npy", iter([rows[:2], rows[2:]]))
    same(np.load(tmp_path / "x.npy"), rows)
    np.save(tmp_path / "big_endian.npy", rows.astype(">f8"))
    same(open_vectors(tmp_path / "big_endian.npy")[::-2], rows[::-2])
    with (tmp_path / "version2.npy").open("wb") as stream:
        np.lib.format.write_array(stream, rows, version=(2, 0))
    same(open_vectors(tmp_path / "version2.npy")[:], rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (7, 3)},
        {"chunks": (16, 5), "compression": "gzip", "shuffle": True},
        {"chunks": (1, 5), "fletcher32": True},
        {"dtype": ">f4"},
        {"dtype": ">f4", "chunks": (10, 5)},
    ],
)
@pytest.mark.parametrize("userblock", [0, 512])
def test_hdf5_layouts_read_alike(tmp_path, options, userblock):
    rows = random_rows(50, 5, "f4")
    with h5py.File(tmp_path / "x.hdf5", "w", userblock_size=userblock) as file:
        file.create_dataset("train", data=rows, **options)
    vectors = open_vectors(f"{tmp_path}/x.hdf5:train")
    ids = np.random.default_rng(0).integers(-50, 50, 200)
    for key in (slice(None), slice(40, 3, -4), ids, -1):
        same(vectors[key], rows[key])


def test_contiguous_hdf5_is_mapped_and_other_layouts_are_not(tmp_path):
    rows = random_rows(50, 5, "f4")
    write_vectors(f"{tmp_path}/x.hdf5:mapped", rows)
    write_vectors(f"{tmp_path}/x.hdf5:chunked", iter([rows]))
    assert type(open_vectors(f"{tmp_path}/x.hdf5:mapped")._rows).__name__ == "MappedRows"
    assert type(open_vectors(f"{tmp_path}/x.hdf5:chunked")._rows).__name__ == "ChunkedRows"


@pytest.mark.parametrize(("page_bytes", "max_pages"), [(64, 2), (256, 4), (4096, 3)])
@pytest.mark.parametrize("suffix", ["bvecs", "u8bin", "npy"])
def test_giving_pages_back_does_not_change_what_is_read(tmp_path, monkeypatch, page_bytes, max_pages, suffix):
    monkeypatch.setattr(mapped, "_PAGE_BYTES", page_bytes)
    monkeypatch.setattr(mapped, "_MAX_PAGES", max_pages)
    rows = random_rows(3000, 13, "u1")
    write_vectors(tmp_path / f"x.{suffix}", rows)
    vectors = open_vectors(tmp_path / f"x.{suffix}")
    ids = np.random.default_rng(0).integers(-3000, 3000, 2000)
    for key in (slice(None), slice(7, 2900, 3), slice(None, None, -1), ids, ids[:1], np.sort(ids)):
        same(vectors[key], rows[key])


def test_threads_read_the_same_rows(tmp_path):
    rows = random_rows(200_000, 16, "f4")
    write_vectors(tmp_path / "x.fvecs", rows)
    write_vectors(f"{tmp_path}/x.h5:train", iter([rows[:1000]]))
    mapped_rows, chunked_rows = open_vectors(tmp_path / "x.fvecs"), open_vectors(f"{tmp_path}/x.h5:train")

    def read(seed):
        start = int(np.random.default_rng(seed).integers(0, 150_000))
        ids = np.random.default_rng(seed).integers(0, 1000, 50)
        same(mapped_rows[start : start + 50_000], rows[start : start + 50_000])
        same(chunked_rows[ids], rows[ids])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(40)))


def test_torch_takes_what_is_read_without_a_warning(tmp_path):
    torch = pytest.importorskip("torch")
    write_vectors(tmp_path / "x.bvecs", random_rows(9, 4, "u1"))
    vectors = open_vectors(tmp_path / "x.bvecs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for key in (slice(None), slice(None, None, -1), [3, 1], 2):
            torch.from_numpy(vectors[key])[...] = 0
    assert vectors[:].any(), "a change of what was read must not reach the file"


def test_a_relative_path_survives_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_vectors("x.npy", np.eye(3))
    vectors = open_vectors(Path("x.npy"))
    monkeypatch.chdir("/")
    same(vectors[:], np.eye(3))


@pytest.mark.parametrize("suffix", ["npy", "hdf5:train"])
def test_indexing_mistakes_are_index_errors_with_numbers(tmp_path, suffix):
    path = f"{tmp_path}/x.{suffix}"
    write_vectors(path, iter([np.eye(3)]))
    vectors = open_vectors(path)
    cases = {
        3: f"{path}: row 3 is out of range for 3 rows",
        -4: f"{path}: row -4 is out of range for 3 rows",
        "a": f"{path}: index rows by int, slice or 1-d array, not str",
        (0, 1): f"{path}: index rows by int, slice or 1-d array, not tuple",
    }
    for key, message in cases.items():
        with pytest.raises(IndexError) as raised:
            vectors[key]
        assert str(raised.value) == message
    for key, message in [
        (np.array([0, 5]), f"{path}: row 5 is out of range for 3 rows"),
        (np.array([0.5]), f"{path}: row indices must be a 1-d integer array, not float64 (1,)"),
        (np.eye(2, dtype=int), f"{path}: row indices must be a 1-d integer array, not int64 (2, 2)"),
        (np.ones(2, dtype=bool), f"{path}: mask of 2 entries for 3 rows"),
    ]:
        with pytest.raises(IndexError) as raised:
            vectors[key]
        assert str(raised.value) == message
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, not 0$"):
        next(vectors.iter_batches(0))
    with pytest.raises(ValueError, match=r"become an array only by a copy$"):
        np.asarray(vectors, copy=False)
