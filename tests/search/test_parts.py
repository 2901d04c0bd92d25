"""An index in parts gives the results of the index that they are merged into."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.search.index import bundle as bundles
from qinco_lit.search.index.faiss_index import add_codes
from qinco_lit.search.parts import IndexPart, PartsSearcher
from qinco_lit.search.searcher import Searcher
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
    return PartsSearcher(parts, [part.facts for part in parts.parts])


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
    alone = parts.search(data.queries[:1], k=4)
    np.testing.assert_array_equal(alone[1], one.search(data.queries[:1], k=4)[1])
    assert parts.search(data.queries[:0])[0].shape == (0, 10)
