"""Lists built in parts are those built at once, in memory or in a file."""

import ctypes
import errno
import shutil
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from qinco_lit.search.index import lists as index_lists
from qinco_lit.search.index.faiss_index import add_codes, empty_index, is_mapped, list_sizes
from qinco_lit.search.index.lists import (
    copy_into_memory,
    fill_lists,
    list_populations,
    merge_in_memory,
    merge_on_disk,
    quiet_faiss,
    write_lists,
)
from tests.search.indexes import stored_ids
from tests.search.test_faiss_index import LISTS, ROWS, STEPS, Rows


class Store:
    """Codes in memory."""

    def __init__(self, rows: Rows) -> None:
        self.codes, self.lists = rows.codes.copy(), rows.list_ids.copy()

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        return self.codes[rows]

    def list_ids(self, start: int, stop: int) -> np.ndarray:
        return self.lists[start:stop]


@pytest.fixture
def rows() -> Rows:
    given = Rows()
    given.list_ids[given.list_ids == 7] = 8  # an empty list
    return given


def empty(rows: Rows):
    return empty_index(rows.centroids, rows.codebooks, rows.limits)


def written(index, path) -> bytes:
    write_lists(index, path)
    return path.read_bytes()


def part_files(rows: Rows, folder, parts: int, ids=None) -> list:
    index, files = empty(rows), []
    for part in range(parts):
        start, stop = part * ROWS // parts, (part + 1) * ROWS // parts
        fill_lists(index, Store(rows), start, stop, codebook_size=16, ids=ids)
        files.append(folder / f"part-{part}")
        write_lists(index, files[-1])
    return files


@pytest.mark.parametrize("block_rows", [37, 1 << 18])
def test_one_pass_over_the_store_gives_what_adding_gives(rows, tmp_path, monkeypatch, block_rows):
    monkeypatch.setattr(index_lists, "_BLOCK_ROWS", block_rows)
    told: list[int] = []
    index = empty(rows)
    fill_lists(index, Store(rows), 0, ROWS, codebook_size=16, progress=told.append)
    assert sum(told) == ROWS
    assert len(told) == -(-ROWS // block_rows)
    expected = empty(rows)
    add_codes(expected, rows.list_ids, rows.codes, np.arange(ROWS))
    assert written(index, tmp_path / "a") == written(expected, tmp_path / "b")
    np.testing.assert_array_equal(list_populations(Store(rows), LISTS, 0, ROWS), list_sizes(index))


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("own_ids", [False, True])
def test_merged_parts_are_the_single_index(rows, tmp_path, capfd, parts, own_ids):
    ids = (lambda start, stop: rows.ids[start:stop]) if own_ids else None
    single = empty(rows)
    fill_lists(single, Store(rows), 0, ROWS, codebook_size=16, ids=ids)
    files = part_files(rows, tmp_path, parts, ids)
    expected = written(single, tmp_path / "single")
    merged = empty(rows)
    merge_in_memory(merged, files)
    assert merged.ntotal == ROWS
    assert written(merged, tmp_path / "merged") == expected

    mapped = empty(rows)
    merge_on_disk(mapped, files, tmp_path / "lists.ivfdata")
    assert is_mapped(mapped)
    assert (tmp_path / "lists.ivfdata").stat().st_size == ROWS * (single.code_size + 8)
    np.testing.assert_array_equal(stored_ids(mapped), stored_ids(single))
    parameters = faiss.SearchParametersIVF(nprobe=5)
    for found, wanted in zip(
        mapped.search(rows.queries, 20, params=parameters),
        single.search(rows.queries, 20, params=parameters),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)
    copy_into_memory(mapped)
    assert not is_mapped(mapped)
    assert written(mapped, tmp_path / "copied") == expected
    assert capfd.readouterr() == ("", "")  # faiss' C++ code prints the size of the file


def test_mapped_lists_cannot_be_changed(rows, tmp_path):
    index = empty(rows)
    merge_on_disk(index, part_files(rows, tmp_path, 2), tmp_path / "lists.ivfdata")
    before = (tmp_path / "lists.ivfdata").read_bytes()
    with pytest.raises(ValueError, match=r"^cannot add to lists that are mapped from disk: build with on_disk=false"):
        add_codes(index, rows.list_ids[:1], rows.codes[:1], np.array([ROWS]))
    assert (tmp_path / "lists.ivfdata").read_bytes() == before


@pytest.mark.parametrize("value", [-1, LISTS])
def test_a_list_that_is_not_there_is_named(rows, monkeypatch, value):
    monkeypatch.setattr(index_lists, "_BLOCK_ROWS", 100)
    store = Store(rows)
    store.lists[321] = value
    with pytest.raises(ValueError, match=f"^the list id of row 321 is {value}, the codec has {LISTS} lists$"):
        fill_lists(empty(rows), store, 0, ROWS, codebook_size=16)


def test_a_code_that_is_not_there_is_named():
    rows = Rows(10)  # in 4 bits
    store = Store(rows)
    store.codes[321, STEPS - 1] = 12
    with pytest.raises(ValueError, match="^row 321 has code 12, the codec has 10 codewords$"):
        fill_lists(empty(rows), store, 0, ROWS, codebook_size=10)


def test_no_room_is_told_before_anything_is_mapped(rows, tmp_path, monkeypatch):
    files = part_files(rows, tmp_path, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"lists.ivfdata: No space left on device, the lists take 0 MB") as raised:
        merge_on_disk(empty(rows), files, tmp_path / "lists.ivfdata")
    assert raised.value.errno == errno.ENOSPC
    assert not (tmp_path / "lists.ivfdata").exists()


def test_a_file_of_lists_that_an_index_is_linked_to_is_not_written_again(rows, tmp_path):
    files = part_files(rows, tmp_path, 2)
    merge_on_disk(empty(rows), files, tmp_path / "lists.ivfdata")
    (tmp_path / "published").hardlink_to(tmp_path / "lists.ivfdata")
    before = (tmp_path / "published").read_bytes()
    merge_on_disk(empty(rows), files[:1], tmp_path / "lists.ivfdata")
    assert (tmp_path / "lists.ivfdata").read_bytes() != before
    assert (tmp_path / "published").read_bytes() == before


def test_a_damaged_part_is_one_line(rows, tmp_path):
    files = part_files(rows, tmp_path, 1)
    files[0].write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"part-0: faiss cannot read or write it \(.*\)$") as raised:
        merge_in_memory(empty(rows), files)
    assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"part-9: No such file or directory"):
        merge_in_memory(empty(rows), [tmp_path / "part-9"])


def test_quiet_leaves_the_terminal_as_it_was(capfd):
    libc = ctypes.CDLL(None)
    print("before")  # noqa: T201
    with quiet_faiss():
        libc.puts(b"from C")
    print("after", flush=True)  # noqa: T201
    assert capfd.readouterr().out == "before\nafter\n"
