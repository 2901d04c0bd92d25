"""What an index takes of the memory is what docs/search.md says, whatever was done with it."""

import ctypes
import gc
import itertools
from pathlib import Path

import faiss
import numpy as np
import pytest

from qinco_lit import Searcher
from qinco_lit.search.decoders.additive import AdditiveDecoder
from qinco_lit.search.index import lists as index_lists
from qinco_lit.search.index.bundle import Bundle, save
from qinco_lit.search.index.faiss_index import empty_index
from qinco_lit.search.index.lists import ListRoom, drop_lists, merge_in_memory, merge_on_disk, write_lists
from tests.search.indexes import DIM, LISTS, indexed, ivf_codec

VECTORS, STEPS = 2_000_000, 8
# docs/search.md: the codes, 2 bytes for the norm, 8 for the id
DOCUMENTED = STEPS + 2 + 8


def resident() -> int:
    """Bytes of this process that are in memory, but for what C's allocator could give back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def random_lists(number: int, code_size: int) -> faiss.ArrayInvertedLists:
    """Lists of so many random codes in all, with positions as ids."""
    rng, lists = np.random.default_rng(0), faiss.ArrayInvertedLists(LISTS, code_size)
    bounds = np.linspace(0, number, LISTS + 1).astype(int)
    for place, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
        codes, ids = rng.integers(0, 256, (stop - start, code_size), dtype=np.uint8), np.arange(start, stop)
        lists.add_entries(place, stop - start, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    return lists


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of random codes."""
    codec = ivf_codec(num_steps=STEPS, codebook_size=256)
    assert codec.coarse_centroids is not None
    codebooks = np.random.default_rng(1).normal(size=(STEPS, 256, DIM)).astype(np.float32)
    index = empty_index(codec.coarse_centroids, codebooks, (0.0, 400.0))
    index_lists._set_lists(index, random_lists(VECTORS, index.code_size))
    folder = tmp_path_factory.mktemp("memory") / "index"
    encoder = codec.quantizer.default_search.record()
    save(Bundle(codec, index, AdditiveDecoder(codebooks), None, "l2", {"encoder": encoder}), folder)
    return folder


def test_memory_of_a_vector_is_what_is_documented(index_dir: Path, tmp_path: Path) -> None:
    def taken(searcher: Searcher) -> float:
        return (resident() - before) / len(searcher)

    queries = np.random.default_rng(2).normal(size=(8, DIM)).astype(np.float32)
    small = Searcher(indexed(30).bundle)  # what libraries take at their first use
    small.search(queries)
    small.add(queries)
    small.save(tmp_path / "small")
    Searcher.load(tmp_path / "small")
    before = resident()
    searcher = Searcher.load(index_dir)
    assert sum(searcher.bytes_per_vector.values()) == DOCUMENTED
    loaded = taken(searcher)
    assert 0.9 * DOCUMENTED < loaded < 1.1 * DOCUMENTED
    for first in range(3):  # every list is full: what is added to one makes it grow
        for centroid in searcher._scan.centroids:
            searcher.add(centroid[None] + 0.1 * queries[first])
    assert taken(searcher) < 1.1 * DOCUMENTED
    searcher.save(tmp_path / "saved")
    assert taken(searcher) < 1.1 * DOCUMENTED
    assert len(searcher) == VECTORS + 3 * LISTS


def test_a_list_grows_by_a_small_part_and_keeps_what_is_in_it() -> None:
    lists = faiss.ArrayInvertedLists(3, 2)
    room = ListRoom(lists)
    lengths, moved = [], 0
    for number in range(3_000):
        before = int(lists.get_ids(1)) if lists.list_size(1) else 0
        room.make(np.array([1]))
        lists.add_entry(1, number, faiss.swig_ptr(np.array([number % 256, number // 256], np.uint8)))
        moved += before != int(lists.get_ids(1))
        lengths.append(int(room._room[1]))
    assert max(np.array(lengths[1:]) / np.arange(2, 3_001)) <= 1.5  # of two entries
    assert max(np.array(lengths[500:]) / np.arange(501, 3_001)) < 1 + 1 / 32 + 2 / 500
    assert moved < 300
    np.testing.assert_array_equal(faiss.rev_swig_ptr(lists.get_ids(1), 3_000), np.arange(3_000))
    codes = faiss.rev_swig_ptr(lists.get_codes(1), 6_000).reshape(-1, 2)
    np.testing.assert_array_equal(codes @ np.array([1, 256]), np.arange(3_000))
    assert lists.list_size(0) == lists.list_size(2) == 0


def test_parts_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    parts, rows = 6, 500_000
    rng = np.random.default_rng(0)
    centroids, codebooks = np.float32(rng.normal(size=(LISTS, DIM))), np.float32(rng.normal(size=(STEPS, 256, DIM)))
    index = empty_index(centroids, codebooks, (0.0, 400.0))
    index_lists._set_lists(index, random_lists(rows, index.code_size))
    write_lists(index, tmp_path / "part")
    drop_lists(index)
    before, size = resident(), (tmp_path / "part").stat().st_size
    for mapped in (True, False):
        for _ in range(parts):
            with index_lists._lists_of(tmp_path / "part", mapped=mapped) as lists:
                assert lists.compute_ntotal() == rows
    assert resident() - before < 0.5 * size
    merge_in_memory(index, [tmp_path / "part"] * parts)
    assert index.ntotal == parts * rows
    assert resident() - before < (parts + 0.5) * size
    merge_on_disk(index, [tmp_path / "part"] * 2, tmp_path / "lists")
    assert index.ntotal == 2 * rows
    gc.collect()
