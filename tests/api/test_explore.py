"""`qinco_lit.explore`: operating points of a searcher, measured from arrays or files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qinco_lit as ql
from qinco_lit.commands.search import search
from qinco_lit.metrics import recall_at
from tests.search.indexes import DIM, LISTS, Indexed, indexed
from tests.search.test_search_command import QUICK, Data, positions

GRID: dict[str, Any] = {"nprobe": [1, 4], "ef_search": [12], "num_additive": [16, 64], "num_pairwise": [4, 0]}
FAST: dict[str, Any] = {"repeats": 1, "warmup": 0, "latency_queries": 3, "progress": False}


def searcher_of(given: Indexed) -> ql.Searcher:
    """What `positions` has in the place of a bundle."""
    searcher: Any = given.bundle
    assert isinstance(searcher, ql.Searcher)
    return searcher


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_points_are_what_the_searcher_finds(metric: str) -> None:
    given = positions(metric)
    searcher, truth = searcher_of(given), Data(given).ground_truth
    points = ql.explore(searcher, given.queries, ground_truth=truth, **GRID, **FAST)
    assert 1 <= len(points) <= 8
    assert [point.queries_per_s for point in points] == sorted((p.queries_per_s for p in points), reverse=True)
    for point in points:
        k = point.parameters["num_pairwise"] or point.parameters["num_additive"]
        ids = searcher.search(given.queries, k, **point.parameters)[1]
        padded = np.hstack([ids, np.full((len(ids), 100), -1)])
        assert point.recall == recall_at(padded, truth, (1, 10, 100))
    front = ql.pareto_front(points, 10)
    assert front[0] == points[0]
    assert max(point.recall[10] for point in points) == front[-1].recall[10]
    found = ql.explore(searcher, given.queries, database=given.x, **GRID, **FAST)  # brute force finds the same truth
    recall = {tuple(point.parameters.items()): point.recall for point in points}
    for point in found:
        assert recall.get(tuple(point.parameters.items()), point.recall) == point.recall


def test_it_measures_what_the_command_writes(tmp_path: Path) -> None:
    given = positions()
    searcher_of(given).save(tmp_path / "index")
    options = {**QUICK, "warmup": 0}
    record = search(index_dir=tmp_path / "index", data=Data(given), output_dir=tmp_path / "out", **options)
    np.save(tmp_path / "queries.npy", given.queries)
    np.save(tmp_path / "truth.npy", Data(given).ground_truth)
    points = ql.explore(
        ql.Searcher.load(tmp_path / "index"), tmp_path / "queries.npy", ground_truth=str(tmp_path / "truth.npy"),
        progress=False, **options,
    )  # fmt: skip
    written = {json.dumps(p["parameters"]): p for p in record["engines"]["qinco"]["points"]}
    both = [point for point in points if json.dumps(point.parameters) in written]
    assert both  # which points are skipped depends on times
    for point in both:
        there, here = written[json.dumps(point.parameters)], json.loads(json.dumps(point.to_record()))
        assert there.keys() == here.keys()
        assert {key: there[key] for key in there if "recall" in key} == {k: here[k] for k in here if "recall" in k}
    header = next(csv.reader((tmp_path / "out" / "search.csv").read_text().splitlines()))
    assert {"nprobe", "ef_search", "num_additive", "num_pairwise"} <= set(header)


def test_queries_and_truth_of_any_kind(tmp_path: Path) -> None:
    given = positions()
    searcher, truth = searcher_of(given), Data(given).ground_truth
    one: dict[str, Any] = {"nprobe": [LISTS], "ef_search": [64], "num_additive": [64], "num_pairwise": [0], **FAST}
    x = np.rint(given.queries)
    expected = ql.explore(searcher, x, ground_truth=truth, **one)[0].recall
    for queries, ids in (
        (torch.from_numpy(x), torch.from_numpy(truth)),
        (x.tolist(), truth[:, :1].tolist()),
        (x.astype(np.float16), truth.astype(np.int32)),
        (x.astype(np.int8), truth.astype(np.uint32)),
    ):
        (point,) = ql.explore(searcher, queries, ground_truth=ids, **one)
        assert point.recall == expected
    steps = ql.explore(searcher, x, ground_truth=truth, **{**one, "num_additive": [400], "num_steps": [1, 4]})
    assert {point.parameters["num_steps"] for point in steps} == {1, 4}
    drawn = ql.explore(searcher, x, ground_truth=truth, strategy="random", max_points=2, **GRID, **FAST)
    assert len(drawn) <= 2


def test_mistakes_are_one_line_that_names_the_argument() -> None:
    given = positions(pairwise=False)
    searcher, truth = searcher_of(given), Data(given).ground_truth
    own = indexed(30)
    for options, message in (
        ({}, r"recall needs the true neighbours: give ground_truth, or the database to find them in"),
        ({"ground_truth": truth[:5]}, r"ground_truth of shape \(5, \d+\) and dtype int64: expected \(40, k\) integers"),
        ({"ground_truth": truth + 0.5}, r"ground_truth of shape .* and dtype float64: expected \(40, k\) integers"),
        ({"database": given.x[:7]}, rf"database has shape \(7, {DIM}\), the index holds \(400, {DIM}\)"),
        ({"ground_truth": truth, "nprobe": [LISTS + 1]}, rf"nprobe={LISTS + 1}: the index has {LISTS} lists"),
        ({"ground_truth": truth, "nprobe": []}, r"nprobe=\[\]: give at least one value, or null for a choice of them"),
        ({"ground_truth": truth, "num_pairwise": [3]}, r"num_pairwise=3: the index has no pairwise decoder, leave .*"),
        ({"ground_truth": truth, "num_steps": [9]}, r"num_steps=9: the index has 4 codes per vector"),
        ({"ground_truth": truth, "recall_at": ()}, r"recall_at=\[\]: give at least one k"),
        ({"ground_truth": truth, "strategy": "all"}, r"strategy='all': give grid or random"),
        ({"ground_truth": truth, "max_points": 3}, r"strategy=random draws max_points=N of the grid: give both, .*"),
        ({"ground_truth": truth, "repeats": 0}, r"repeats=0: give at least 1"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            ql.explore(searcher, given.queries, progress=False, **options)
    with pytest.raises(ValueError, match=r"^the index holds ids that are not positions in its vectors .*"):
        ql.explore(ql.Searcher(own.bundle), own.queries, database=own.x, progress=False)
    with pytest.raises(ValueError, match=r"^queries of shape \(40, 5\) do not fit this index: expected \(n, 16\)$"):
        ql.explore(searcher, given.queries[:, :5], ground_truth=truth, progress=False)
    with pytest.raises(ValueError, match=r"^unknown parameter nprobes \(did you mean nprobe\?\); choose from: "):
        ql.explore(searcher, given.queries, ground_truth=truth, nprobes=[3])
