"""Exploration of operating points: skipping loses nothing, fronts are fronts, files are taken up again."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.metrics import recall_at
from qinco_lit.search.points.engines import Effort, EngineResult
from qinco_lit.search.points.measure import MeasureSettings, measure_point
from qinco_lit.search.points.operating_points import (
    OperatingPoint,
    PointFile,
    candidates,
    fastest_with,
    pareto_front,
    points_that_matter,
)

KS = (1, 10)


def _point(queries_per_s: float, recalls: Mapping[int, float], **parameters: int) -> OperatingPoint:
    return OperatingPoint(
        engine="toy", parameters=parameters, recall=dict(recalls), queries_per_s=queries_per_s,
        queries_per_s_range=(0.5 * queries_per_s, 1.5 * queries_per_s), latency_median_s=1 / 3, latency_p95_s=None,
        stage_s={"scan": 1 / 7}, stage_recall_at_1={"scan": 0.25}, measured_at="2026-01-01T00:00:00+0000",
    )  # fmt: skip


class Toy:
    """Monotone in everything; `b` below `a` does nothing; a second stage (`c` > 0) may cost or save time."""

    name = "toy"
    bytes_per_vector = {"codes": 8.0}  # noqa: RUF012

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.parameters = {"a": [1, 2, 4, 8, 16], "b": [1, 4, 16], "c": [2, 5, 9]}
        self._cost = rng.uniform(0.1, 2, 3)
        # recall saturates, so that much effort is wasted
        self._gain, self._most = rng.uniform(0.1, 1, (2, 3)), rng.integers(2, 12, 3)

    def effort(self, parameters: Mapping[str, int]) -> Effort:
        a, b, c = (parameters[name] for name in "abc")
        values = (a, max(a, b), c)
        return Effort(values, values)

    def search(self, queries: Any, k: int, **parameters: int) -> EngineResult:
        raise NotImplementedError

    def measure(self, parameters: Mapping[str, int]) -> OperatingPoint:
        values = np.array(self.effort(parameters).time)
        gains = [1 - math.exp(-float(gain @ np.minimum(values, self._most))) for gain in self._gain]
        return _point(1 / float(self._cost @ values), dict(zip(KS, gains, strict=True)), **parameters)


class Refined(Toy):
    """Of `c` more takes longer, and finds anything."""

    def effort(self, parameters: Mapping[str, int]) -> Effort:
        time, recall = super().effort(parameters)
        return Effort(time, (*recall, -recall[-1]))

    def measure(self, parameters: Mapping[str, int]) -> OperatingPoint:
        point = super().measure(parameters)
        factor = {2: 0.5, 5: 0.9, 9: 0.3}[parameters["c"]]
        recalls = {k: factor * value for k, value in point.recall.items()}
        return _point(point.queries_per_s, recalls, **parameters)


def _values(points: list[OperatingPoint], k: int) -> list[tuple[float, float]]:
    return [(point.queries_per_s, point.recall[k]) for point in pareto_front(points, k)]


@pytest.mark.parametrize("kind", [Toy, Refined])
@pytest.mark.parametrize("seed", range(12))
def test_skipping_loses_no_point_of_a_front(kind: type[Toy], seed: int) -> None:
    engine = kind(seed)
    everything = candidates(engine, strategy="grid", max_points=None, seed=seed)
    points, skipped = points_that_matter(engine, everything, known=[], measure=engine.measure)
    assert len(points) + skipped == len(everything)
    full = [engine.measure(parameters) for parameters in everything]
    for k in KS:
        assert _values(points, k) == _values(full, k)


def test_skipping_saves_work() -> None:
    counts = []
    for seed in range(12):
        engine = Toy(seed)
        everything = candidates(engine, strategy="grid", max_points=None, seed=seed)
        counts.append(points_that_matter(engine, everything, known=[], measure=engine.measure)[1] / len(everything))
    assert np.mean(counts) > 0.1


def test_a_front_is_what_nothing_dominates() -> None:
    rng = np.random.default_rng(0)
    # few values, so that there are ties
    points = [_point(float(rng.integers(1, 20)), {1: float(rng.integers(0, 20)) / 20}, a=i) for i in range(200)]
    front = pareto_front(points, 1)
    for point in points:
        dominated = any(
            (other.queries_per_s >= point.queries_per_s and other.recall[1] > point.recall[1])
            or (other.queries_per_s > point.queries_per_s and other.recall[1] >= point.recall[1])
            for other in points
        )
        equals = any((p.queries_per_s, p.recall) == (point.queries_per_s, point.recall) for p in front)
        assert equals == (not dominated)
    assert [point.queries_per_s for point in front] == sorted({p.queries_per_s for p in front}, reverse=True)
    assert pareto_front([], 1) == []


def test_the_fastest_point_with_a_recall() -> None:
    points = [_point(100, {1: 0.3}), _point(50, {1: 0.5}), _point(80, {1: 0.5 - 1e-9}), _point(10, {1: 0.6})]
    best = fastest_with(points, 1, 0.5)
    assert best is not None
    assert best.queries_per_s == 80
    assert fastest_with(points, 1, 0.7) is None


def test_candidates_are_every_search_once_the_extremes_first() -> None:
    engine = Toy()
    tried = candidates(engine, strategy="grid", max_points=None, seed=4)
    efforts = [engine.effort(parameters) for parameters in tried]
    assert len(set(efforts)) == len(efforts)
    every = {
        engine.effort({"a": a, "b": b, "c": c})
        for a in engine.parameters["a"] for b in engine.parameters["b"] for c in engine.parameters["c"]
    }  # fmt: skip
    assert set(efforts) == every
    assert tried[0] == {"a": 1, "b": 1, "c": 2}
    assert efforts[1] == engine.effort({"a": 16, "b": 16, "c": 9})
    assert tried == candidates(engine, strategy="grid", max_points=None, seed=4)
    assert tried != candidates(engine, strategy="grid", max_points=None, seed=5)
    assert candidates(engine, strategy="random", max_points=7, seed=4) == tried[:7]


def test_one_candidate_is_a_grid_too() -> None:
    engine = Toy()
    engine.parameters = {"a": [2], "b": [4], "c": [5]}
    assert candidates(engine, strategy="grid", max_points=None, seed=0) == [{"a": 2, "b": 4, "c": 5}]


@pytest.mark.parametrize("stop", [0, 1, 5, 11])
def test_an_interrupted_exploration_goes_on_to_the_same_points(stop: int, tmp_path: Path) -> None:
    engine, circumstances = Toy(3), {"num_threads": 2}
    tried = candidates(engine, strategy="grid", max_points=None, seed=3)
    whole, skipped = points_that_matter(engine, tried, known=[], measure=engine.measure)
    file = PointFile(tmp_path / "points.jsonl", circumstances)
    measured = []

    def dies(parameters: Mapping[str, int]) -> OperatingPoint:
        if len(measured) == stop:
            raise KeyboardInterrupt
        file.append(engine.measure(parameters))
        measured.append(parameters)
        return file.points[-1]

    with pytest.raises(KeyboardInterrupt):
        points_that_matter(engine, tried, known=[], measure=dies)
    again = PointFile(tmp_path / "points.jsonl", circumstances)
    remeasured = []

    def goes_on(parameters: Mapping[str, int]) -> OperatingPoint:
        remeasured.append(parameters)
        return engine.measure(parameters)

    assert points_that_matter(engine, tried, known=again.points, measure=goes_on) == (whole, skipped)
    assert len(measured) + len(remeasured) == len(whole)


# -- file ----------------------------------------------------------------------------------------------------------


def test_points_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = PointFile(tmp_path / "new" / "points.jsonl", {"index": "a", "recall_at": [1, 10]})
    points = [_point(1 / 3, {1: 0.1, 100: 2 / 3}, nprobe=3), _point(7.0, {1: 0.0, 100: 1.0}, nprobe=1)]
    for point in points:
        file.append(point)
    assert PointFile(tmp_path / "new" / "points.jsonl", {"index": "a", "recall_at": [1, 10]}).points == points


def test_a_half_written_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    file = PointFile(path, {"index": "a"})
    file.append(_point(1.0, {1: 0.1}, a=1))
    header = path.read_bytes().index(b"\n") + 1
    whole = path.read_bytes()
    for end in [1, header - 1, *range(header, len(whole), 9)]:
        path.write_bytes(whole[:end])
        assert PointFile(path, {"index": "a"}).points == []
        content = path.read_bytes()
        assert content == (whole[:header] if end >= header else b"")
    path.write_bytes(whole + whole[header:-1])
    again = PointFile(path, {"index": "a"})
    again.append(_point(2.0, {1: 0.2}, a=2))
    assert [point.queries_per_s for point in PointFile(path, {"index": "a"}).points] == [1.0, 2.0]


def test_points_of_another_search_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    PointFile(path, {"index": "a", "num_threads": 2})
    assert not path.exists()
    PointFile(path, {"index": "a", "num_threads": 2}).append(_point(1.0, {1: 0.1}, a=1))
    with pytest.raises(ValueError, match=r"points.jsonl holds points with num_threads=2, not 4: choose another folder"):
        PointFile(path, {"index": "a", "num_threads": 4})
    for text in ("no json\n", json.dumps([1]) + "\n", json.dumps({"circumstances": {}}) + '\n{"engine": "x"}\n'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"points.jsonl holds no points of a search: choose another folder"):
            PointFile(path, {})


# -- measuring -----------------------------------------------------------------------------------------------------


class Recorded:
    """Returns rows of a fixed ranking, and remembers what it was asked."""

    name = "recorded"
    bytes_per_vector = {"codes": 1.0}  # noqa: RUF012
    parameters = {"nprobe": [1, 2]}  # noqa: RUF012

    def __init__(self, ids: np.ndarray) -> None:
        self._ids, self.asked = ids, []  # type: ignore[var-annotated]

    def effort(self, parameters: Mapping[str, int]) -> Effort:
        return Effort((parameters["nprobe"],), (parameters["nprobe"],))

    def search(self, queries: Any, k: int, **parameters: int) -> EngineResult:
        self.asked.append((len(queries), k, parameters))
        ids = self._ids[queries[:, 0].astype(int), :k]
        return EngineResult(ids, {"coarse": (None, 0.5), "scan": (ids[:, ::-1].copy(), 0.25), "end": (ids, 2.0)})


def test_a_point_holds_what_a_second_computation_finds() -> None:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(30) for _ in range(23)])
    truth = np.array([rng.permutation(30)[:5] for _ in range(23)])
    queries = np.arange(23, dtype=np.float32)[:, None]
    engine = Recorded(ids)
    settings = MeasureSettings(recall_at=(1, 20), batch_size=10, warmup=4, repeats=2, latency_queries=6)
    point = measure_point(engine, {"nprobe": 2}, queries, truth, settings)
    assert point.recall == recall_at(ids[:, :20], truth, [1, 20])
    assert point.stage_recall_at_1 == {
        "scan": recall_at(ids[:, 19:20], truth, [1])[1],
        "end": point.recall[1],
    }
    # three batches a pass, of 23 queries
    assert point.stage_s == {"coarse": 1.5 / 23, "scan": 0.75 / 23, "end": 6.0 / 23}
    assert point.parameters == {"nprobe": 2}
    assert point.queries_per_s_range[0] <= point.queries_per_s <= point.queries_per_s_range[1]
    assert point.latency_median_s is not None
    assert point.latency_p95_s is not None
    assert 0 < point.latency_median_s <= point.latency_p95_s
    sizes = [size for size, _, _ in engine.asked]
    assert sizes == [10, 10, 3, 10] + 2 * [10, 10, 3] + (3 + 6) * [1]
    assert {(k, parameters["nprobe"]) for _, k, parameters in engine.asked} == {(20, 2)}


def test_the_median_pass_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    durations = iter([5.0, 1.0, 3.0])

    class Slow(Recorded):
        def search(self, queries: Any, k: int, **parameters: int) -> EngineResult:
            nonlocal now
            now += next(durations)
            return super().search(queries, k, **parameters)

    monkeypatch.setattr("qinco_lit.search.points.measure.time.perf_counter", lambda: now)
    queries = np.arange(6, dtype=np.float32)[:, None]
    settings = MeasureSettings(recall_at=(1,), batch_size=6, warmup=0, repeats=3, latency_queries=0)
    point = measure_point(Slow(np.zeros((6, 4), int)), {"nprobe": 1}, queries, np.zeros((6, 1), int), settings)
    assert point.queries_per_s == 2.0
    assert point.queries_per_s_range == (6 / 5, 6.0)
    assert point.latency_median_s is None
