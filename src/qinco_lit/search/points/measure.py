"""Measure one operating point: recall, queries per second in batches, latency of single queries, time of the stages."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Int64, Integer, Shaped

from qinco_lit.metrics import recall_at
from qinco_lit.options import Count, Range
from qinco_lit.search.points.engines import SearchEngine
from qinco_lit.search.points.operating_points import OperatingPoint

_LATENCY_WARM_UP = 3


@dataclass(frozen=True)
class MeasureSettings:
    """How points are measured.

    Attributes:
        recall_at: every k of R@k; each query asks for the largest number of results.
        batch_size: queries in a batch.
        warmup: batches before the clock starts.
        repeats: passes over all queries, of which the median counts.
        latency_queries: of so many the time is taken one by one; 0: of none.
    """

    recall_at: Sequence[Count] = (1, 10, 100)
    batch_size: Count = 1024
    warmup: Annotated[int, Range(0)] = 1
    repeats: Count = 3
    latency_queries: Annotated[int, Range(0)] = 200


class _Pass:
    """Results of one pass over all queries; `seconds` in all, and of every stage."""

    def __init__(
        self,
        engine: SearchEngine,
        queries: Shaped[np.ndarray, "nq dim"],
        k: int,
        batch_size: int,
        parameters: dict[str, int],
    ) -> None:
        self.seconds = 0.0
        self.stage_seconds: dict[str, float] = {}
        ids: list[Int64[np.ndarray, "batch k"]] = []
        stage_ids: dict[str, list[Int64[np.ndarray, "batch 1"]]] = {}
        for start in range(0, len(queries), batch_size):
            batch = queries[start : start + batch_size]
            began = time.perf_counter()
            result = engine.search(batch, k, **parameters)
            self.seconds += time.perf_counter() - began
            ids.append(result.ids)
            for name, (ranked, seconds) in result.stages.items():
                self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + seconds
                if ranked is not None:
                    stage_ids.setdefault(name, []).append(ranked[:, :1])
        self.ids: Int64[np.ndarray, "nq k"] = np.concatenate(ids)
        self.first: dict[str, Int64[np.ndarray, "nq 1"]] = {
            name: np.concatenate(parts) for name, parts in stage_ids.items()
        }


def measure_point(
    engine: SearchEngine,
    parameters: Mapping[str, int],
    queries: Shaped[np.ndarray, "nq dim"],
    ground_truth: Integer[np.ndarray, "nq _"],
    settings: MeasureSettings,
) -> OperatingPoint:
    """Measure an engine with these parameters.

    Args:
        engine: what answers; the clock runs only while it does.
        parameters: of its search.
        queries: one at least.
        ground_truth: ids of the true neighbours, nearest first.
        settings: how it is measured.
    """
    k, values = max(settings.recall_at), dict(parameters)
    for start in range(settings.warmup):
        first = start * settings.batch_size % len(queries)
        engine.search(queries[first : first + settings.batch_size], k, **values)
    passes = [_Pass(engine, queries, k, settings.batch_size, values) for _ in range(settings.repeats)]
    passes.sort(key=lambda one: one.seconds)
    median = passes[(len(passes) - 1) // 2]
    num_queries = len(queries)
    latencies = _latencies(engine, values, queries, k, settings.latency_queries)
    return OperatingPoint(
        engine=engine.name,
        parameters=values,
        recall=recall_at(median.ids, ground_truth, settings.recall_at),
        queries_per_s=num_queries / median.seconds,
        queries_per_s_range=(num_queries / passes[-1].seconds, num_queries / passes[0].seconds),
        latency_median_s=float(np.median(latencies)) if latencies else None,
        latency_p95_s=float(np.percentile(latencies, 95)) if latencies else None,
        stage_s={name: seconds / num_queries for name, seconds in median.stage_seconds.items()},
        stage_recall_at_1={name: recall_at(ids, ground_truth, [1])[1] for name, ids in median.first.items()},
        measured_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def _latencies(
    engine: SearchEngine, parameters: dict[str, int], queries: Shaped[np.ndarray, "nq dim"], k: int, number: int
) -> list[float]:
    """Seconds of each of the first queries, asked alone."""
    seconds = []
    rows = [position % len(queries) for position in range(number and _LATENCY_WARM_UP + min(number, len(queries)))]
    for row in rows:
        began = time.perf_counter()
        engine.search(queries[row : row + 1], k, **parameters)
        seconds.append(time.perf_counter() - began)
    return seconds[_LATENCY_WARM_UP:]
