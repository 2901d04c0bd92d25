"""A store of codes holds what `Codec.encode` gives, in every form, for this package and for plain h5py."""

import pickle
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from qinco_lit.codec import Codec
from qinco_lit.vectors import open_codes, open_vectors
from tests.codes.conftest import NUM_ROWS, SHARD_ROWS, contents, save_codec, save_vectors


@pytest.fixture(scope="module")
def codes(codec_dir: Path, vectors_path: Path) -> np.ndarray:
    return Codec.load(codec_dir).encode(open_vectors(vectors_path)[:])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("codebook_size", [16, 256, 1024, 4096])
def test_round_trip(job, tmp_path, vectors_path, codebook_size, packed):
    codec_dir = save_codec(tmp_path / "codec", codebook_size=codebook_size, num_steps=4)
    expected = Codec.load(codec_dir).encode(open_vectors(vectors_path)[:])
    virtual = open_codes(job("virtual.h5", codec=codec_dir, packed=packed))
    merged = open_codes(job("merged.h5", codec=codec_dir, packed=packed, merge=True))
    for store in (virtual, merged):
        np.testing.assert_array_equal(store[:], expected)
        assert (store.dtype, store.shape) == (expected.dtype, expected.shape)
        bits = 4 * np.log2(codebook_size)
        assert store.info.bytes_per_vector == (bits / 8 if packed else 4 * expected.dtype.itemsize)
    assert (virtual.is_virtual, merged.is_virtual) == (True, False)
    assert not (tmp_path / "merged.h5.shards").exists()


@pytest.mark.parametrize("merge", [False, True])
def test_rows_are_read_as_from_an_array(job, codes, merge):
    store = open_codes(job(merge=merge))
    for start, stop in [(0, 1000), (299, 301), (0, 0), (-5, 1000), (250, 950), (600, 600), (999, 5000)]:
        np.testing.assert_array_equal(store[start:stop], codes[start:stop])
    for row in (0, 300, -1, np.int64(599)):
        np.testing.assert_array_equal(store[row], codes[row])
    np.testing.assert_array_equal(np.concatenate(list(store.iter_batches(77))), codes)
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy[310:320], codes[310:320])
    for key in (1000, -1001):
        with pytest.raises(IndexError, match=f"row {key} is out of range for 1000 rows"):
            store[key]
    for key in (slice(0, 9, 2), [1, 2], "codes"):
        with pytest.raises(IndexError, match="index rows by int or by a slice without step"):
            store[key]
    with pytest.raises(ValueError, match="the codec of these codes has no lists"):
        store.list_ids()


@pytest.mark.parametrize("merge", [False, True])
def test_plain_h5py_reads_it(job, codes, codec_dir, vectors_path, merge, monkeypatch):
    path = job(merge=merge)
    monkeypatch.chdir("/")  # shards are found from the store, not from here
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["codes"][:], codes)
        assert file["shard_sha256"].shape == (4, 32)
        attributes = dict(file.attrs)
        assert (file["codes"].chunks is not None) == merge
    np.testing.assert_array_equal(open_vectors(f"{path}:codes")[280:320], codes[280:320])
    assert attributes["format"] == "qinco_lit codes"
    assert attributes["num_rows"] == NUM_ROWS
    assert attributes["shard_rows"] == SHARD_ROWS
    assert attributes["input_path"] == str(vectors_path)
    assert attributes["input_dtype"] == "float32"
    assert attributes["input_bytes"] == vectors_path.stat().st_size
    assert (attributes["beam_size"], attributes["num_candidates"]) == (3, 4)
    assert "candidate_budget" not in attributes
    assert attributes["codec_sha256"] in (codec_dir / "config.json").read_text()


@pytest.mark.parametrize("merge", [False, True])
def test_no_time_is_in_the_files(job, tmp_path, merge):
    job(merge=merge)
    first = contents(tmp_path)
    for path in [tmp_path / name for name in first]:
        path.unlink()
    time.sleep(1.1)  # HDF5 would store seconds
    shutil.rmtree(tmp_path / "codes.h5.shards", ignore_errors=True)
    job(merge=merge)
    assert contents(tmp_path) == first


def test_a_store_moves_with_its_shards(job, codes, tmp_path):
    (tmp_path / "a").mkdir()
    job("a/codes.h5")
    (tmp_path / "a").rename(tmp_path / "b")
    np.testing.assert_array_equal(open_codes(tmp_path / "b" / "codes.h5")[:], codes)
    with h5py.File(tmp_path / "b" / "codes.h5", "r") as file:
        np.testing.assert_array_equal(file["codes"][:], codes)


def test_size_on_disk(job, tmp_path):
    many = save_vectors(tmp_path / "many.fvecs", num_rows=70_000)
    for name, merge in {"virtual.h5": False, "merged.h5": True}.items():
        job(name, vectors=many, merge=merge, beam_size=1, num_candidates=1, shard_rows=None)
        files = [path for path in tmp_path.rglob("*") if str(path).startswith(str(tmp_path / name)) and path.is_file()]
        assert sum(path.stat().st_size for path in files if path.suffix == ".h5") <= 70_000 * 3 * 1.02 + 10_000


def test_what_is_no_store(tmp_path, job):
    with pytest.raises(FileNotFoundError, match=r"gone.h5: no such file"):
        open_codes(tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match=r"text.h5: no store of codes that this version reads"):
        open_codes(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["codes"] = np.zeros((3, 3), np.uint8)
    with pytest.raises(ValueError, match=r"not in the format 'qinco_lit codes' version 1"):
        open_codes(tmp_path / "other.h5")
    path = job()
    with h5py.File(path, "r+") as file:
        del file.attrs["beam_size"]
    with pytest.raises(ValueError, match=r"attribute beam_size is missing"):
        open_codes(path)
