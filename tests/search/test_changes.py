"""Changes of an index: which ids are taken, and to whom the lists belong."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qinco_lit import Searcher
from qinco_lit.search.index.bundle import load, save
from tests.search.indexes import DIM, LISTS, indexed
from tests.search.test_search_command import positions

LARGEST = 2**63 - 1


def stored(searcher: Searcher) -> np.ndarray:
    return np.sort(np.concatenate([ids for _, _, ids in searcher._writable().contents()]))


def test_ids_are_removed_whatever_integers_they_are() -> None:
    given = indexed(30)
    searcher = Searcher(given.bundle)
    ids = given.ids
    forms: list[Any] = [
        int(ids[0]),
        ids[1],
        [int(ids[2]), int(ids[3])],
        ids[4:6].astype(np.int32),
        ids[6:8].astype(np.uint64),
        torch.from_numpy(ids[8:9]),
        np.repeat(ids[9:12], 3),
        tuple(ids[12:14].tolist()),
    ]
    assert [searcher.remove(form) for form in forms] == [1, 1, 2, 2, 2, 1, 3, 2]
    for nothing in ([], (), np.empty(0, np.float32), [-1], [LARGEST]):
        assert searcher.remove(nothing) == 0
    np.testing.assert_array_equal(stored(searcher), np.sort(ids[14:]))


@pytest.mark.parametrize("known", [True, False])
def test_what_is_no_list_of_ids_removes_nothing(known: bool) -> None:
    given = indexed(30)
    searcher = Searcher(given.bundle)
    if known:
        searcher.add(given.x[:0])
    ids = given.ids
    for bad, message in (
        (ids.reshape(2, 15), r"ids of shape \(2, 15\) and dtype int64: expected \(n,\) integers"),
        (np.empty((0, 3), np.int64), r"ids of shape \(0, 3\) and dtype int64: expected \(n,\) integers"),
        (ids + 0.25, r"ids of shape \(30,\) and dtype float64: expected \(n,\) integers"),
        (np.isin(ids, ids[:4]), r"ids of shape \(30,\) and dtype bool: expected \(n,\) integers"),
        ([str(ids[0])], r"ids of shape \(1,\) and dtype <U\d+: expected \(n,\) integers"),
        (None, r"ids of shape \(1,\) and dtype object: expected \(n,\) integers"),
        (np.uint64(2**64 - 1), rf"id {2**64 - 1} is beyond the largest, {LARGEST}"),
        (np.array([3, 2**63], np.uint64), rf"id {2**63} is beyond the largest, {LARGEST}"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            searcher.remove(bad)
    np.testing.assert_array_equal(stored(searcher), np.sort(ids))
    assert searcher.add(given.x[:1]).tolist() == [ids.max() + 1]


def test_ids_that_go_and_come_back_are_as_if_they_had_stayed() -> None:
    given = indexed(30)
    searcher = Searcher(given.bundle)
    searcher.add(given.x[:0])  # from here on the ids are known
    assert searcher.remove([*given.ids[:3], 10**9, given.ids[0]]) == 3
    searcher.add(given.x[:3], given.ids[:3])
    with pytest.raises(ValueError, match=r"is in the index already"):
        searcher.add(given.x[:1], given.ids[:1])
    np.testing.assert_array_equal(stored(searcher), np.sort(given.ids))


def test_ids_end_with_the_largest_integer_of_64_bits() -> None:
    given = indexed(30)
    searcher = Searcher(given.bundle)
    beyond = np.array([5000, 2**63], np.uint64)
    with pytest.raises(ValueError, match=rf"^id {2**63} is beyond the largest, {LARGEST}$"):
        searcher.add(given.x[:2], beyond)
    searcher.add(given.x[:1], [LARGEST - 2])
    with pytest.raises(ValueError, match=rf"^no 3 ids are left after {LARGEST - 2}: give ids$"):
        searcher.add(given.x[:3])
    assert searcher.add(given.x[:2]).tolist() == [LARGEST - 1, LARGEST]
    with pytest.raises(ValueError, match=rf"^no 1 ids are left after {LARGEST}: give ids$"):
        searcher.add(given.x[:1])
    assert searcher.add(given.x[:0]).tolist() == []
    assert searcher.add(given.x[:0], []).tolist() == []
    assert searcher.add(given.x[:1], [5000]).tolist() == [5000]
    assert len(searcher) == 34
    assert LARGEST in searcher.search(given.x[1:2], 34, nprobe=LISTS)[1]


def test_an_index_that_was_emptied_starts_at_0() -> None:
    given = indexed(30)
    searcher = Searcher(given.bundle)
    assert searcher.remove(given.ids) == 30
    distances, ids = searcher.search(given.queries, 2)
    assert (ids == -1).all()
    assert (distances == np.inf).all()
    assert searcher.add(given.x[:3]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("shape", [(), (DIM,), (2, 3), (1, 2, DIM)])
def test_what_is_no_matrix_of_vectors_is_not_added(metric: str, shape: tuple[int, ...]) -> None:
    searcher = Searcher(indexed(30, metric=metric).bundle)
    with pytest.raises(ValueError, match=r"^vectors of shape \(.*\) do not fit this codec: expected \(n, 16\)$"):
        searcher.add(np.ones(shape, np.float32))


def test_vectors_of_torch_are_added_as_those_of_numpy() -> None:
    given = indexed(30)
    searcher = Searcher(given.bundle)
    new = [searcher.add(x)[0] for x in (given.x[:1], torch.from_numpy(given.x[:1]).requires_grad_())]
    distances, ids = searcher.search(given.queries[:1], 32, nprobe=LISTS)
    first, second = (distances[ids == one] for one in new)
    assert first == second


def test_ids_are_read_only_where_a_given_one_may_be_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given = indexed(30)
    searcher = Searcher(given.bundle)
    scan = searcher._writable()
    free, read = int(np.setdiff1d(np.arange(150), given.ids)[0]), []
    all_ids = scan.ids
    monkeypatch.setattr(scan, "ids", lambda: read.append(1) or all_ids())
    for ids in (None, [10**6, 10**7], None):
        searcher.add(given.x[:2], ids)
    assert not read
    for ids in ([2000], [3000], [10**6 + 1]):
        searcher.add(given.x[:1], ids)
    assert len(read) == 1  # once, and kept up to date since
    with pytest.raises(ValueError, match=r"^id 3000 is in the index already: remove it first, or give another$"):
        searcher.add(given.x[:2], [free, 3000])
    assert len(searcher) == 39
    assert free not in stored(searcher)


def test_an_index_says_whether_ids_are_positions(tmp_path: Path) -> None:
    given = positions()
    searcher: Any = given.bundle
    assert searcher.ids_are_positions
    assert searcher.add(given.x[:2]).tolist() == [400, 401]
    searcher.add(given.x[:2], [402, 403])
    assert searcher.ids_are_positions
    searcher.remove([10**9])
    assert searcher.ids_are_positions
    searcher.save(tmp_path / "grown")
    searcher.remove([7])
    searcher.add(given.x[:1], [7])  # as many, the same ids, another vector
    assert not searcher.ids_are_positions
    searcher.save(tmp_path / "changed")
    for mmap in (False, True):
        assert Searcher.load(tmp_path / "grown", mmap=mmap).ids_are_positions
        assert not Searcher.load(tmp_path / "changed", mmap=mmap).ids_are_positions
    again = Searcher.load(tmp_path / "changed")
    again.save(tmp_path / "again")
    assert not Searcher.load(tmp_path / "again").ids_are_positions
    assert not Searcher(indexed(30).bundle).ids_are_positions


def test_threads_search_add_remove_and_save_at_once(tmp_path: Path) -> None:
    """Two copies of a far vector come and go together: every search finds both or none of them."""
    given = indexed(200)
    searcher = Searcher(given.bundle, num_threads=1)
    far, ids, ended = given.x[:1] + 50, np.array([10**6, 10**6 + 1]), threading.Event()
    counts: set[int] = set()
    failed: list[BaseException] = []

    def repeat(work: Any) -> None:
        try:
            while not ended.is_set():
                work()
        except BaseException as error:
            failed.append(error)
            ended.set()

    def search() -> None:
        found = searcher.search(np.repeat(far, 8, axis=0), 3, nprobe=LISTS)[1]
        counts.update(np.isin(found, ids).sum(axis=1).tolist())
        assert len({int(np.isin(row, ids).sum()) for row in found}) == 1

    def save_and_load() -> None:
        searcher.save(tmp_path / "index")
        saved = stored(Searcher.load(tmp_path / "index", num_threads=1))
        assert len(saved) - 200 == np.isin(saved, ids).sum() != 1

    threads = [threading.Thread(target=repeat, args=(work,)) for work in (search, search, save_and_load)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        searcher.add(np.repeat(far, 2, axis=0), ids)
        assert searcher.remove(ids) == 2
    ended.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert counts <= {0, 2}
    assert len(searcher) == 200


# -- to whom the lists belong -----------------------------------------------------------------------------------------


def test_the_lists_of_a_bundle_go_to_one_searcher(tmp_path: Path) -> None:
    given = indexed(30)
    searcher = Searcher(given.bundle)
    with pytest.raises(ValueError, match=r"^a Searcher has taken the lists of this bundle: use it, or load again$"):
        Searcher(given.bundle)
    with pytest.raises(ValueError, match=r"^a Searcher has taken the lists of this bundle: use its save$"):
        save(given.bundle, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    searcher.save(tmp_path / "a")
    searcher.save(tmp_path / "b")
    for name in ("a", "b"):
        np.testing.assert_array_equal(stored(Searcher.load(tmp_path / name)), np.sort(given.ids))
    with pytest.raises(ValueError, match="use its save"):
        save(given.bundle, tmp_path / "c")


def test_a_searcher_that_is_refused_takes_nothing() -> None:
    given = indexed(30)
    for options in ({"num_threads": 0}, {"precision": "half"}):
        with pytest.raises(ValueError, match=r"^(num_threads=0: give at least 1$|precision=half is unknown)"):
            Searcher(given.bundle, **options)  # type: ignore[arg-type]
    assert len(Searcher(given.bundle)) == 30


def test_mapped_lists_are_shared(tmp_path: Path) -> None:
    save(indexed(30).bundle, tmp_path / "a")
    bundle = load(tmp_path / "a", mmap=True)
    assert len(Searcher(bundle)) == len(Searcher(bundle)) == 30
    save(bundle, tmp_path / "b")
    assert len(Searcher.load(tmp_path / "b")) == 30
