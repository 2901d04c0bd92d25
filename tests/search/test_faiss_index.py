"""The index is plain faiss: what it stores, and what any faiss computes from it."""

import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from qinco_lit.search.index.faiss_index import (
    NormRange,
    add_codes,
    additive_codebooks,
    empty_index,
    list_sizes,
)
from qinco_lit.search.index.lists import write_lists
from tests.search.indexes import stored_ids

DIM, LISTS, STEPS, ROWS = 8, 20, 3, 500

PLAIN_FAISS = """
import sys
import faiss, numpy as np
index = faiss.read_index(sys.argv[1])
index.nprobe = index.nlist
faiss.downcast_index(index.quantizer).hnsw.efSearch = 4 * index.nlist
distances, ids = index.search(np.load(sys.argv[2]), 30)
np.savez(sys.argv[3], distances=distances, ids=ids)
assert not [name for name in sys.modules if name.startswith("qinco")]
"""


class Rows:
    """Random centroids, codebooks, and codes of vectors in lists."""

    def __init__(self, codebook_size: int = 16, metric: str = "l2", num_lists: int = LISTS) -> None:
        rng = np.random.default_rng(codebook_size)
        self.centroids = np.float32(3 * rng.normal(size=(num_lists, DIM)))
        self.codebooks = np.float32(rng.normal(size=(STEPS, codebook_size, DIM)))
        dtype = np.uint8 if codebook_size <= 256 else np.uint16
        self.codes = rng.integers(0, codebook_size, (ROWS, STEPS)).astype(dtype)
        self.list_ids = rng.integers(0, num_lists, ROWS).astype(np.int32)
        self.ids = rng.permutation(10 * ROWS)[:ROWS].astype(np.int64)
        self.residuals = np.float32(self.codebooks[np.arange(STEPS), self.codes].sum(1))
        self.x_hat = self.centroids[self.list_ids] + self.residuals
        self.norms = (self.residuals**2).sum(1)
        self.limits = (0.0, float(self.norms.max()) + 1)
        self.queries = np.float32(3 * rng.normal(size=(7, DIM)))
        self.metric = metric

    def index(self, rows: slice = slice(None), limits: tuple[float, float] | None = None):
        index = empty_index(self.centroids, self.codebooks, limits or self.limits, metric=self.metric)
        add_codes(index, self.list_ids[rows], self.codes[rows], self.ids[rows])
        return index

    def true_scores(self, ids: np.ndarray) -> np.ndarray:
        order = np.argsort(self.ids)
        found = self.x_hat[order[np.searchsorted(self.ids[order], ids)]]
        if self.metric == "l2":
            return ((self.queries[:, None] - found) ** 2).sum(-1)
        return (self.queries[:, None] * found).sum(-1)


def entries(index) -> np.ndarray:
    """List ids and bytes of all entries, list by list."""
    lists = faiss.downcast_InvertedLists(index.invlists)
    parts = [
        faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).reshape(size, -1)
        for number, size in enumerate(list_sizes(index).tolist())
        if size
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("codebook_size", [16, 10, 256, 300])
def test_another_faiss_reads_it_and_computes_the_distance_to_the_additive_decoding(tmp_path, codebook_size, metric):
    rows = Rows(codebook_size, metric)
    faiss.write_index(rows.index(), str(tmp_path / "index.faiss"))
    np.save(tmp_path / "queries.npy", rows.queries)
    names = [str(tmp_path / name) for name in ("index.faiss", "queries.npy", "found.npz")]
    subprocess.run([sys.executable, "-I", "-c", PLAIN_FAISS, *names], check=True, cwd=tmp_path)
    with np.load(tmp_path / "found.npz") as found:
        true = rows.true_scores(found["ids"])
        half_a_level = (rows.limits[1] - rows.limits[0]) / 256 / 2 if metric == "l2" else 0
        np.testing.assert_allclose(found["distances"], true, rtol=0, atol=half_a_level + 1e-3)
        all_scores = rows.true_scores(np.tile(rows.ids, (len(rows.queries), 1)))
        best = all_scores.min(1) if metric == "l2" else all_scores.max(1)
    np.testing.assert_allclose(true[:, 0], best, rtol=0, atol=2 * half_a_level + 1e-3)


@pytest.mark.parametrize("codebook_size", [16, 10, 256, 300])
def test_an_entry_is_the_codes_in_bits_and_one_byte_of_norm(codebook_size):
    rows = Rows(codebook_size)
    index = rows.index()
    bits = (codebook_size - 1).bit_length()
    assert index.code_size == -(-(STEPS * bits + 8) // 8)
    order = np.argsort(rows.list_ids, kind="stable")
    np.testing.assert_array_equal(stored_ids(index), rows.ids[order])
    np.testing.assert_array_equal(list_sizes(index), np.bincount(rows.list_ids, minlength=LISTS))
    stored = np.unpackbits(entries(index), axis=1, bitorder="little")
    codes = stored[:, : STEPS * bits].reshape(ROWS, STEPS, bits) @ (1 << np.arange(bits))
    np.testing.assert_array_equal(codes, rows.codes[order])
    level = stored[:, STEPS * bits : STEPS * bits + 8] @ (1 << np.arange(8))
    low, high = rows.limits
    expected = np.floor((rows.norms[order] - low) / (high - low) * 256)
    assert np.abs(level - expected).max() <= 1
    assert (level == expected).mean() > 0.99  # rounding may differ in the last place
    np.testing.assert_array_equal(additive_codebooks(index, codebook_size), rows.codebooks)
    list_bytes = np.uint8(rows.list_ids[order])[:, None]
    decoded = index.sa_decode(np.hstack([list_bytes, entries(index)]))
    np.testing.assert_allclose(decoded, rows.x_hat[order], rtol=0, atol=1e-5)


def test_norms_outside_of_the_range_take_the_nearest_level():
    rows = Rows()
    low, high = np.quantile(rows.norms, [0.25, 0.75])
    both = np.unpackbits(entries(rows.index(limits=(float(low), float(high)))), axis=1, bitorder="little")
    level = both[:, 12:20] @ (1 << np.arange(8))
    norms = rows.norms[np.argsort(rows.list_ids, kind="stable")]
    assert set(level[norms < low]) == {0}
    assert set(level[norms >= high]) == {255}
    assert len(set(level)) > 20


@pytest.mark.parametrize("num_lists", [1, 2, 300])
def test_any_number_of_lists(num_lists):
    rows = Rows(num_lists=num_lists)
    np.testing.assert_array_equal(list_sizes(rows.index()), np.bincount(rows.list_ids, minlength=num_lists))


def test_added_in_pieces_or_at_once_it_is_the_same(tmp_path, monkeypatch):
    rows = Rows()
    write_lists(rows.index(), tmp_path / "whole")
    index = rows.index(slice(0, 123))
    monkeypatch.setattr("qinco_lit.search.index.faiss_index._BLOCK_BYTES", 40 * DIM * 4)
    add_codes(index, rows.list_ids[123:], rows.codes[123:], rows.ids[123:])
    add_codes(index, rows.list_ids[:0], rows.codes[:0], rows.ids[:0])
    write_lists(index, tmp_path / "pieces")
    assert (tmp_path / "pieces").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [3, 4, 3]}, "id 3 is given twice: ids must differ"),
        ({"ids": [3, -4, 5]}, "id -4 is negative: ids are integers from 0 on"),
        ({"list_ids": [0, 20, 1]}, "list id 20 is out of range: the index has 20 lists"),
        ({"list_ids": [0, -1, 1]}, "list id -1 is out of range: the index has 20 lists"),
        ({"codes": [[0, 0, 0], [0, 16, 0], [0, 0, 0]]}, "code 16 is out of range: the index has 16 values of a code"),
    ],
)
def test_what_cannot_be_added(change, message):
    rows = Rows()
    index = rows.index()
    given = {"list_ids": [0, 1, 2], "codes": np.zeros((3, STEPS), int), "ids": [7, 8, 9]} | change
    with pytest.raises(ValueError, match=f"^{message}$"):
        add_codes(index, *(np.array(given[name]) for name in ("list_ids", "codes", "ids")))
    assert index.ntotal == ROWS


def test_the_range_of_the_norms():
    norms = NormRange()
    with pytest.raises(ValueError, match="no training vectors"):
        norms.limits()
    estimates = np.float32(np.random.default_rng(0).normal(size=(100, DIM)))
    squared = (estimates.astype(np.float64) ** 2).sum(1)
    for part in np.split(estimates, 4):
        norms.add(part)
    low, high = norms.limits()
    slack = (squared.max() - squared.min()) / 32
    np.testing.assert_allclose([low, high], [squared.min() - slack, squared.max() + slack], rtol=1e-5)
    for value in (0.0, 2.0):  # all alike: still a range to divide by
        norms = NormRange()
        norms.add(np.full((3, DIM), value, np.float32))
        low, high = norms.limits()
        assert 0 <= low <= DIM * value**2 < high


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        faiss.write_index(Rows().index(), str(tmp_path / name))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
