"""Every phase of a job is named as it begins, so that a long one is shown; none is where nothing shall be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qinco_lit as ql
from qinco_lit.coarse import list_assigner
from qinco_lit.progress import Progress
from tests.search.indexes import DIM, LISTS, ivf_codec

_ROWS = 1500

Phases = Callable[[Callable[[], Any]], list[str]]


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> Phases:
    """Calls a function and returns the work that was begun and shown meanwhile, in order."""
    begun: list[str] = []

    def start(self: Progress, what: str, total: int | None, **options: Any) -> None:
        if self._show:
            begun.append(what)
        begin(self, what, total, **options)

    begin = Progress.start
    monkeypatch.setattr(Progress, "start", start)

    def of(work: Callable[[], Any]) -> list[str]:
        begun.clear()
        work()
        return list(begun)

    return of


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(_ROWS, DIM)).astype(np.float32)


def test_of_a_training(x: np.ndarray, phases: Phases) -> None:
    options: dict[str, Any] = {"num_steps": 2, "codebook_size": 8, "num_blocks": 1, "embed_dim": 8, "hidden_dim": 8}
    options |= {"num_lists": LISTS, "num_parts": 2, "opq": True, "max_epochs": 1, "val": x[:100], "beam_size": 4}

    def train(**more: Any) -> Any:
        return ql.train(x, model="pq_qinco2", **options, **more)

    kmeans = [f"pass {number}" for number in range(1, 12)]
    found = phases(train)
    assert found[: len(found) - 11] == kmeans[: len(found) - 11]
    assert found[-11:] == [
        "graph over the centroids", "OPQ", "lists of the training vectors", "residual k-means", "residual k-means",
        "RQ of the training vectors", "validation", "PQ of the training vectors", "validation",
        "training", "writing the codec",
    ]  # fmt: skip
    assert phases(lambda: train(progress=False)) == []


def test_of_an_index(x: np.ndarray, phases: Phases) -> None:
    def build(**more: Any) -> Any:
        return ql.build_index(ivf_codec(num_lists=None), x, num_lists=LISTS, num_tables=1, pairwise=True, **more)

    found = [what for what in phases(build) if not what.startswith("pass ")]
    assert found == [
        "encoding", "joining the shards", "graph over the centroids", "lists of the vectors",
        "additive decoder: counting", "additive decoder: solving", "graph over the centroids",
        "pairwise decoder: codes of the lists", "pairwise decoder", "errors of the decoders", "lists",
        "joining the lists, writing the index",
    ]  # fmt: skip
    assert phases(lambda: build(progress=False)) == []


def test_of_an_evaluation_and_of_operating_points(x: np.ndarray, phases: Phases, tmp_path: Path) -> None:
    codec = ivf_codec(num_lists=None)

    def evaluate(**more: Any) -> Any:
        baselines: dict[str, Any] = {"baselines": ["pq", "rq"], "train": x, "cache_dir": tmp_path}
        return ql.evaluate(codec, x[:300], x[:5], **baselines, **more)

    assert phases(lambda: evaluate(progress=False)) == []
    for folder in tmp_path.iterdir():
        for results in folder.glob("results-*.json"):
            results.unlink()
    assert phases(evaluate) == [
        "true neighbours", "codec", "reading the database", "pq: training", "pq", "rq: training", "rq",
    ]  # fmt: skip

    searcher = ql.build_index(codec, x, num_lists=LISTS, pairwise=False, progress=False)

    def explore(**more: Any) -> Any:
        tried: dict[str, Any] = {"nprobe": [1], "ef_search": [8], "num_additive": [10]}
        return ql.explore(searcher, x[:5], database=x, recall_at=[1], **tried, **more)

    assert phases(explore) == ["true neighbours", "qinco: points"]
    assert phases(lambda: explore(progress=False)) == []


def test_of_many_lists(x: np.ndarray, phases: Phases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = phases(lambda: ql.coarse.centroids.train_centroids(x, LISTS, method="grouped", iterations=1))
    assert found[:3] == ["groups", "rows of groups 0 to 3 of 4", "centroids of groups 0 to 3 of 4"]
    assert found[3] == "pass 1"

    monkeypatch.setattr(list_assigner, "EXACT_LISTS", 1)
    found = phases(lambda: ql.encode_file(ivf_codec(), x, tmp_path / "codes.h5"))
    assert found == ["graph over the centroids", "encoding", "joining the shards"]
