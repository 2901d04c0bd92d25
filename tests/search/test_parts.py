"""An index in parts gives the results of the index that they are merged into."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.search import plain_scan, progressive
from qinco_lit.search.index import bundle as bundles
from qinco_lit.search.index.faiss_index import add_codes
from qinco_lit.search.index.part_folders import part_folders
from qinco_lit.search.parts import IndexPart, PartsSearcher
from qinco_lit.search.searcher import Searcher
from tests.search.index_jobs import ROWS, contents
from tests.search.indexes import Indexed, indexed


class Here:
    """Parts in this process; calls that any may take go to one after the other."""

    def __init__(self, folders: Sequence[Path], **options: Any) -> None:
        self.parts = [IndexPart(str(folder), **options) for folder in folders]
        self.num_workers = len(self.parts)
        self.asked: list[int] = []

    def every(self, method: str, *arguments: Any) -> list[Any]:
        return [getattr(part, method)(*arguments) for part in self.parts]

    def share(self, method: str, each: Sequence[tuple[Any, ...]]) -> list[Any]:
        self.asked.append(len(each))
        return [getattr(self.parts[number % len(self.parts)], method)(*call) for number, call in enumerate(each)]


def saved(data: Indexed, rows: np.ndarray, folder: Path, **inputs: Any) -> Path:
    """An index of some of the rows, with the decoders of all."""
    index = data.bundle.index
    index.reset()
    add_codes(index, data.list_ids[rows], data.codes[rows], data.ids[rows])
    config = {**data.bundle.config, "inputs": inputs or None}
    bundles.save(dataclasses.replace(data.bundle, config=config), folder)
    return folder


def in_parts(data: Indexed, folder: Path, number: int) -> tuple[Path, list[Path]]:
    """The whole index, and its parts."""
    rows = np.arange(len(data.ids))
    whole = saved(data, rows, folder / "whole")
    return whole, [
        saved(data, part, folder / f"part-{i:05d}", part=i, parts=number)
        for i, part in enumerate(np.array_split(rows, number))
    ]


def searcher(folders: Sequence[Path], **options: Any) -> PartsSearcher:
    parts = Here(folders, **options)
    return PartsSearcher(parts, [part.facts() for part in parts.parts])


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_results_are_those_of_the_merged_index(tmp_path, metric, plain, mmap):
    data = indexed(metric=metric, plain=plain)
    whole, folders = in_parts(data, tmp_path, 3)
    one, parts = Searcher.load(whole, mmap=mmap), searcher(folders, mmap=mmap)
    assert (len(parts), parts.dim, parts.num_lists, parts.num_steps) == (len(one), one.dim, one.num_lists, 4)
    for options in ({}, {"k": 3, "num_additive": 7, "nprobe": 3}, {"num_pairwise": 20}, {"k": 500}, {"num_steps": 2}):
        expected, found = one.trace(data.queries, **options), parts.trace(data.queries, **options)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.distances, expected.distances)
        assert list(found.stages) == list(expected.stages)
    assert parts.search(data.queries[:0])[0].shape == (0, 10)


def test_what_the_decoder_drops_is_what_it_drops_in_the_merged_index(tmp_path, monkeypatch):
    monkeypatch.setattr(progressive, "_LEAST_MULTIPLICATIONS", 1)
    monkeypatch.setattr(progressive, "_LOOK_MULTIPLICATIONS", 1)
    monkeypatch.setattr(progressive, "_MARGIN", 0.05)  # so small that what is dropped depends on the sample
    data = indexed()
    whole, folders = in_parts(data, tmp_path, 3)
    expected, found = Searcher.load(whole).search(data.queries, k=5), searcher(folders).search(data.queries, k=5)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(other, one)
    monkeypatch.setattr(plain_scan, "_SAMPLED_ROWS", 1)
    other = Searcher.load(whole).search(data.queries, k=5)
    assert not np.array_equal(other[1], expected[1])


def test_of_equal_distances_the_smaller_id_comes_first(tmp_path):
    """Every vector is there three times, in different parts: the three are equally near."""
    data = indexed(num_rows=40)
    three = dataclasses.replace(
        data, ids=np.random.default_rng(0).permutation(120), **{
            name: np.concatenate([getattr(data, name)] * 3) for name in ("list_ids", "codes")
        }
    )  # fmt: skip
    whole, folders = in_parts(three, tmp_path, 3)
    options = {"k": 12, "num_additive": 120, "nprobe": 12}
    (expected, one), (distances, ids) = (
        each.search(data.queries, **options) for each in (Searcher.load(whole), searcher(folders))
    )
    np.testing.assert_array_equal(ids, one)
    np.testing.assert_array_equal(distances, expected)
    groups = ids.reshape(len(ids), 4, 3)
    assert (np.diff(distances.reshape(groups.shape), axis=2) == 0).all()
    assert (np.diff(groups, axis=2) > 0).all()


def test_a_shortlist_that_ends_among_equal_estimates_has_equal_distances(tmp_path):
    data = indexed(num_rows=40)
    five = dataclasses.replace(
        data, ids=np.arange(200), **{
            name: np.concatenate([getattr(data, name)] * 5) for name in ("list_ids", "codes")
        }
    )  # fmt: skip
    whole, folders = in_parts(five, tmp_path, 2)
    options = {"k": 7, "num_additive": 7, "nprobe": 12}
    (expected, _), (distances, ids) = (
        each.search(data.queries, **options) for each in (Searcher.load(whole), searcher(folders))
    )
    np.testing.assert_array_equal(distances, expected)
    assert all(len(set(row)) == 7 for row in ids.tolist())


def test_more_results_than_vectors(tmp_path):
    data = indexed(num_rows=5)
    whole, folders = in_parts(data, tmp_path, 2)
    expected, found = Searcher.load(whole).search(data.queries, k=9), searcher(folders).search(data.queries, k=9)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])
    assert (found[1][:, 5:] == -1).all()


def test_results_may_be_changed(tmp_path):
    _, folders = in_parts(indexed(), tmp_path, 2)
    distances, ids = searcher(folders).search(indexed().queries[:1])
    distances[:], ids[:] = 0, 0


def test_parts_that_are_not_one_index(tmp_path):
    data, other = indexed(), indexed(seed=1)
    rows = np.arange(len(data.ids))
    a, b = saved(data, rows[:200], tmp_path / "a"), saved(data, rows[200:], tmp_path / "b")
    assert len(searcher([b, a])) == len(rows)
    foreign = saved(other, rows, tmp_path / "c")
    with pytest.raises(ValueError, match=f"{foreign} and {a} are not of one index: codec, additive decoder, .* differ"):
        searcher([a, foreign])
    with pytest.raises(ValueError, match=f"{a} and {a} are the same part"):
        searcher([a, b, a])
    with pytest.raises(ValueError, match="parts is empty"):
        searcher([])
    with pytest.raises(FileNotFoundError, match=f"no index in {tmp_path}/nowhere"):
        searcher([a, tmp_path / "nowhere"])


def test_no_part_is_left_out(tmp_path):
    _, folders = in_parts(indexed(), tmp_path, 3)
    with pytest.raises(ValueError, match=f"part 1 of 3 is missing: {folders[0]} is one of them"):
        searcher([folders[0], folders[2]])


def test_a_part_that_is_another_one_by_now_is_not_searched(tmp_path):
    data = indexed()
    rows = np.arange(len(data.ids))
    folders = [saved(data, rows[:200], tmp_path / "a"), saved(data, rows[200:], tmp_path / "b")]
    parts = Here(folders)
    found = PartsSearcher(parts, [part.facts() for part in parts.parts])
    shutil.rmtree(folders[1])
    parts.parts[1] = IndexPart(str(saved(data, rows[200:300], folders[1])))  # as a process does that starts anew
    with pytest.raises(ValueError, match=f"{folders[1]} holds another index by now"):
        found.search(data.queries)


def test_a_part_that_cannot_be_loaded_says_so_at_every_call_until_it_can(tmp_path):
    _, (folder, _) = in_parts(indexed(), tmp_path, 2)
    away = folder.rename(tmp_path / "away")
    part = IndexPart(str(folder))
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=f"no index in {folder}"):
            part.facts()
    away.rename(folder)
    assert part.facts().number == 0


@pytest.mark.parametrize("on_disk", [False, True])
def test_qinco_index_leaves_the_parts(build, inputs, tmp_path, on_disk, caplog):
    build("one", num_training=300)
    report = build("apart", num_training=300, parts=3, merge=False, on_disk=on_disk)
    assert report["num_vectors"] == ROWS
    folders = part_folders(tmp_path / "apart")
    assert [Path(folder).name for folder in folders] == ["part-00000", "part-00001", "part-00002"]
    queries = np.load(inputs / "base.npy")[:50]
    expected, found = Searcher.load(tmp_path / "one").search(queries), searcher(folders).search(queries)
    np.testing.assert_array_equal(found[1], expected[1])
    if not on_disk:  # mapped lists have faiss' own norms, of 8 bits
        np.testing.assert_array_equal(found[0], expected[0])
    assert not (tmp_path / "apart.work").exists()
    with caplog.at_level("INFO"):
        assert build("apart", num_training=300, parts=3, merge=False, on_disk=on_disk) is None
    assert caplog.messages[-1] == f"{tmp_path}/apart is complete already"
    for other in ({"parts": 2, "merge": False}, {"parts": 3}):
        with pytest.raises(ValueError, match="apart is an index of other work: parts differ"):
            build("apart", num_training=300, on_disk=on_disk, **other)


def test_parts_built_apart_are_left_apart(build, tmp_path):
    build("one", num_training=300, parts=2, merge=False)
    for part in (1, 0):
        assert build("two", num_training=300, parts=2, part=part, merge=False) is None
    build("two", num_training=300, parts=2, merge=False)
    one, two = (
        {
            name: content
            for name, content in contents(tmp_path / folder).items()
            if "codec" in name or ".json" not in name
        }
        for folder in ("one", "two")
    )
    assert one == two
    assert [part.facts().identity for part in Here(part_folders(tmp_path / "two")).parts] == [
        part.facts().identity for part in Here(part_folders(tmp_path / "one")).parts
    ]
