"""Codecs with a coarse quantizer: every vector's list travels with its codes."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from qinco_lit.codec import Codec
from qinco_lit.encoding.decode_file import decode_file
from qinco_lit.vectors import open_codes, open_vectors
from tests.codes.conftest import save_codec

NUM_LISTS = 300


@pytest.fixture(scope="module")
def ivf_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_codec(tmp_path_factory.mktemp("ivf") / "codec", lists=NUM_LISTS)


@pytest.mark.parametrize("options", [{}, {"merge": True}, {"packed": True}])
def test_lists_and_codes_are_those_of_the_codec(job, ivf_dir, vectors_path, options):
    path = job(codec=ivf_dir, **options)
    list_ids, codes = Codec.load(ivf_dir, precision="float32").encode(open_vectors(vectors_path)[:])
    assert len(np.unique(list_ids)) > 50
    store = open_codes(path)
    np.testing.assert_array_equal(store[:], codes)
    np.testing.assert_array_equal(store.list_ids(), list_ids)
    np.testing.assert_array_equal(store.list_ids(290, 905), list_ids[290:905])
    assert store.list_ids().dtype == np.int32
    assert store.info.num_lists == NUM_LISTS
    assert store.info.bytes_per_vector == 4 + (2 if "packed" in options else 3)
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["list_ids"][:], list_ids)
        assert file["list_ids"].dtype == np.dtype("<i4")


@pytest.mark.parametrize("options", [{}, {"merge": True}, {"packed": True}])
@pytest.mark.parametrize("lists", [True, False])
def test_batches_of_a_range_of_rows_are_its_codes_and_lists(job, ivf_dir, codec_dir, options, lists):
    store = open_codes(job(codec=ivf_dir if lists else codec_dir, **options))
    for start, stop in [(0, 1000), (290, 905), (-5, 5000), (300, 300), (7, 2)]:
        lists_of_rows = store.list_ids(start, stop) if lists else None
        for batch_size in (1, 77, 300, 5000):
            batches = list(store.coded_batches(start, stop, batch_size))
            expected = store[start:stop]
            sizes = [len(codes) for codes, _ in batches]
            assert sum(sizes) == len(expected)
            assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
            for position, (codes, list_ids) in enumerate(batches):
                rows = slice(position * batch_size, (position + 1) * batch_size)
                np.testing.assert_array_equal(codes, expected[rows])
                assert (list_ids is not None) == lists
                if lists:
                    np.testing.assert_array_equal(list_ids, lists_of_rows[rows])
    with pytest.raises(ValueError, match=r"^batch_size must be at least 1, not 0$"):
        next(store.coded_batches(0, 1, 0))


def test_batches_are_read_ahead_and_no_further(job, ivf_dir, monkeypatch):
    store, reads = open_codes(job(codec=ivf_dir)), []
    read = type(store._rows).read
    monkeypatch.setattr(type(store._rows), "read", lambda rows, *place: reads.append(place) or read(rows, *place))
    batches = store.coded_batches(0, 1000, 10)
    for _ in range(3):
        next(batches)
    batches.close()
    assert reads == [(start, start + 10) for start in range(0, 40, 10)]


def test_decode_takes_the_lists_into_account(job, ivf_dir, tmp_path):
    path = job(codec=ivf_dir)
    store = open_codes(path)
    rows = {"start": 250, "stop": 700}
    decode_file(codec=ivf_dir, codes=path, output=tmp_path / "x.npy", num_steps=2, batch_size=100, device="cpu", **rows)
    expected = Codec.load(ivf_dir).decode(store[250:700][:, :2], list_ids=store.list_ids(250, 700))
    np.testing.assert_allclose(open_vectors(tmp_path / "x.npy")[:], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("merge", [False, True])
def test_a_list_that_changes_is_found(job, ivf_dir, tmp_path, merge):
    path = job(codec=ivf_dir, merge=merge)
    for shard in range(4):
        open_codes(path).verify_shard(shard)
    damaged, row = (path, 305) if merge else (tmp_path / "codes.h5.shards" / "shard-00001.h5", 5)
    with h5py.File(damaged, "r+") as file:
        file["list_ids"][row] += 1
    with pytest.raises(ValueError, match=r"shard 1 \(rows 300..599\) is damaged: its checksum is another"):
        open_codes(path).verify_shard(1)
