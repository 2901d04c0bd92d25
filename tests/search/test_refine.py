"""The last shortlist ranked anew by original vectors in a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from qinco_lit import Searcher, explore, open_vectors
from qinco_lit.commands.search import search
from qinco_lit.vectors import write_vectors
from qinco_lit.vectors.rows import unit_rows
from tests.search.indexes import DIM, LISTS, Indexed, indexed
from tests.search.test_parts import in_parts, searcher
from tests.search.test_search_command import QUICK, ROWS, Data, positions

WIDE = {"nprobe": LISTS, "num_additive": 60}


def originals(given: Indexed) -> np.ndarray:
    """Row i: the vector of id i; zeros where there is none."""
    rows = np.zeros((given.ids.max() + 1, DIM), np.float32)
    rows[given.ids] = given.x
    return rows


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_the_best_decoded_are_ranked_by_the_original_vectors(metric: str) -> None:
    given = indexed(metric=metric)
    rows = originals(given) * (3 if metric == "cosine" else 1)  # a file of vectors that are not of unit length
    one = Searcher(given.bundle)
    decoded = one.search(given.queries, 20, **WIDE)[1]
    trace = one.trace(given.queries, 4, refine=rows, num_refine=20, **WIDE)
    assert list(trace.stages)[-2:] == ["decode", "refine"]
    np.testing.assert_array_equal(trace.stages["decode"].ids, decoded)
    x = unit_rows(rows) if metric == "cosine" else rows
    for query, ids, found, distances in zip(given.queries, decoded, trace.ids, trace.distances, strict=True):
        every = np.square(query - x[ids]).sum(1) if metric == "l2" else -(x[ids] @ query)
        order = np.argsort(every)[:4]
        np.testing.assert_array_equal(found, ids[order])
        np.testing.assert_allclose(distances, np.abs(every[order]) if metric == "l2" else -every[order], rtol=1e-4)


def test_how_many_are_refined() -> None:
    given = indexed()
    rows, one = originals(given), Searcher(given.bundle)
    sizes = {
        number: one.trace(given.queries, k, refine=rows, num_refine=number).stages["decode"].ids.shape[1]
        for k, number in ((3, None), (3, 7), (30, 7), (3, 10**9))
    }
    assert sizes == {None: 10, 7: 30, 10**9: 400}
    plain, without = one.search(given.queries, 3), one.search(given.queries, 3, refine=rows, num_refine=0)
    np.testing.assert_array_equal(without[0], plain[0])
    distances, ids = one.search(given.queries, 500, refine=rows, nprobe=LISTS)
    assert (ids[:, 400:] == -1).all()
    assert np.isinf(distances[:, 400:]).all()
    np.testing.assert_array_equal(np.sort(ids[:, :400], axis=1), np.broadcast_to(np.sort(given.ids), (40, 400)))
    assert one.search(given.queries[:0], 3, refine=rows)[0].shape == (0, 3)


@pytest.mark.parametrize("kind", ["float16.npy", "fvecs", "parquet", "open"])
def test_files_of_vectors_are_read_by_row(kind: str, tmp_path: Path) -> None:
    given = indexed()
    rows, path = np.float16(originals(given)), tmp_path / f"x.{kind}"
    if kind == "parquet":
        pa.parquet.write_table(pa.table({"x": pa.array(list(rows.astype(np.float32)))}), path, row_group_size=300)
    else:
        path = tmp_path / "x.npy" if kind == "open" else path
        write_vectors(path, rows if "16" in kind else rows.astype(np.float32))
    one = Searcher(given.bundle, num_threads=2)
    expected = one.search(given.queries, 5, refine=rows, **WIDE)
    found = one.search(given.queries, 5, refine=open_vectors(path) if kind == "open" else path, **WIDE)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_index_in_parts_is_refined_as_the_merged_one(tmp_path: Path) -> None:
    given = indexed()
    whole, folders = in_parts(given, tmp_path, 2)
    expected = Searcher.load(whole).search(given.queries, 5, refine=originals(given))
    for ours, theirs in zip(searcher(folders).search(given.queries, 5, refine=originals(given)), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_originals_that_are_not_those_of_the_index(tmp_path: Path) -> None:
    given = indexed()
    one, rows = Searcher(given.bundle), originals(given)
    path = tmp_path / "x.npy"
    np.save(path, rows[:, 1:])
    missing, last = tmp_path / "none.npy", int(given.ids.max())
    for bad, error, message in (
        (path, ValueError, rf"refine={path}: its vectors have dimension 15, those of the index 16"),
        (rows[:399], ValueError, r"refine=.*: 399 rows for an index of 400 vectors: row i is id i"),
        (rows[:last], ValueError, rf"refine=.*: no row for id {last}, it has {last:,}: row i is id i"),
        (missing, FileNotFoundError, rf"{missing}.*"),
        (3, ValueError, r"refine is of type int: give vectors .*"),
    ):
        with pytest.raises(error, match=f"^{message}$"):
            one.search(given.queries, 400, nprobe=LISTS, refine=bad)
    for number, message in ((5, "give refine as well, the original vectors"), (-1, "give at least 0")):
        with pytest.raises(ValueError, match=rf"^num_refine={number}: {message}$"):
            one.search(given.queries, num_refine=number)
    np.save(path, rows)
    opened = open_vectors(path)
    path.write_bytes(path.read_bytes()[:-DIM])
    with pytest.raises(ValueError, match=r"bytes when opened, now .*; reopen it$"):
        one.search(given.queries, refine=opened)


def test_a_row_that_is_no_number_comes_last() -> None:
    given = indexed()
    rows = originals(given)
    first = Searcher(given.bundle)
    best = first.search(given.queries[:1], 1, refine=rows)[1][0, 0]
    rows[best] = np.nan
    found = first.search(given.queries[:1], 10, refine=rows)[1][0]
    assert found[-1] == best


def test_points_of_refined_searches(tmp_path: Path) -> None:
    given, index = indexed(ROWS), tmp_path / "index"
    positions().bundle.save(index)  # type: ignore[attr-defined]
    np.save(tmp_path / "x.npy", given.x)
    options: dict[str, Any] = {**QUICK, "nprobe": [4], "num_additive": [64], "num_pairwise": [0], "num_refine": [0, 10]}
    call = {"index_dir": index, "data": Data(given), "output_dir": tmp_path / "out", "cache_dir": tmp_path / "cache"}
    record = search(**call, **options, refine=str(tmp_path / "x.npy"))
    assert record["settings"]["refine"] == {"file": str(tmp_path / "x.npy"), "bytes_per_vector": 4 * DIM}
    assert "64 bytes a vector on the disk" in (tmp_path / "out" / "search.md").read_text()
    points = {each["parameters"]["num_refine"]: each for each in record["engines"]["qinco"]["points"]}
    assert points[10]["recall_at_1"] == points[0]["recall_at_10"] > points[0]["recall_at_1"]
    assert points[10]["recall_at_100"] == points[10]["recall_at_10"]  # ten are refined, and are the results
    assert list(points[10]["stage_s"]) == ["additive", "decode", "refine"]
    with pytest.raises(ValueError, match=r"points.jsonl holds points with refine=.*, not None: choose another folder"):
        search(**call, **{**options, "num_refine": None})  # without the originals
    explored = explore(
        Searcher.load(index), given.queries, database=given.x, refine=given.x, nprobe=[4], num_additive=[64],
        num_pairwise=[0], repeats=1, latency_queries=0, progress=False,
    )  # fmt: skip
    assert [point.parameters["num_refine"] for point in explored] == [10]
    assert explored[0].recall[1] == points[10]["recall_at_1"]
    with pytest.raises(ValueError, match=r"^num_refine=10: give refine as well, the original vectors$"):
        explore(Searcher.load(index), given.queries, database=given.x, num_refine=[10])
