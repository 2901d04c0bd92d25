"""Which parameters are worth their time: points of recall and speed, measured where they can matter, kept in a file."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qinco_lit import metrics
from qinco_lit.search.points.engines import Effort, SearchEngine

Parameters = dict[str, int]


@dataclass(frozen=True)
class OperatingPoint:
    """What one choice of an engine's parameters gives.

    Attributes:
        engine: its name.
        parameters: what was asked for.
        recall: R@k by k: share of queries whose true nearest neighbour is among the first k results.
        queries_per_s: all queries in batches; of the repeat with the median time (the faster of two).
        queries_per_s_range: of the slowest and of the fastest repeat.
        latency_median_s, latency_p95_s: of single queries; None if that was not measured.
        stage_s: seconds per query of every stage, of the same repeat as `queries_per_s`.
        stage_recall_at_1: R@1 of the ranking of every stage alone, where it has one.
        measured_at: date and time.
    """

    engine: str
    parameters: Parameters
    recall: dict[int, float]
    queries_per_s: float
    queries_per_s_range: tuple[float, float]
    latency_median_s: float | None
    latency_p95_s: float | None
    stage_s: dict[str, float]
    stage_recall_at_1: dict[str, float]
    measured_at: str

    def to_record(self) -> dict[str, Any]:
        """Plain values for JSON, `recall_at_{k}` one by one."""
        record = asdict(self)
        recall = record.pop("recall")
        low, high = record.pop("queries_per_s_range")
        speeds = {"queries_per_s_lowest": low, "queries_per_s_highest": high}
        return {**{f"recall_at_{k}": value for k, value in recall.items()}, **speeds, **record}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "OperatingPoint":
        """Read what `to_record` gave. KeyError or TypeError if it is something else."""
        values = dict(record)
        names = [name for name in values if name.startswith("recall_at_")]
        recall = {int(name.removeprefix("recall_at_")): float(values.pop(name)) for name in names}
        speeds = (values.pop("queries_per_s_lowest"), values.pop("queries_per_s_highest"))
        return cls(recall=recall, queries_per_s_range=speeds, **values)


def candidates(engine: SearchEngine, *, strategy: str, max_points: int | None, seed: int) -> list[Parameters]:
    """Parameters to try, in this order: the least effort, the most, then all others in an order drawn by `seed`.

    Args:
        engine: its `parameters` are the grid; of those with equal effort the last is taken.
        strategy: "grid": all of it; "random": the first `max_points` in that order.
        max_points: for "random".
        seed: of the order.
    """
    names, efforts = list(engine.parameters), []
    by_effort: dict[Effort, Parameters] = {}
    for values in itertools.product(*engine.parameters.values()):
        parameters = dict(zip(names, values, strict=True))
        efforts.append(engine.effort(parameters))
        by_effort[efforts[-1]] = parameters
    ends = [by_effort.pop(effort) for effort in dict.fromkeys([efforts[0], efforts[-1]])]
    others = list(by_effort.values())
    order = np.random.default_rng(seed).permutation(len(others))
    points = [*ends, *(others[position] for position in order)]
    return points if strategy == "grid" else points[:max_points]


def points_that_matter(
    engine: SearchEngine,
    tried: Sequence[Parameters],
    *,
    known: Iterable[OperatingPoint],
    measure: Callable[[Parameters], OperatingPoint],
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[OperatingPoint], int]:
    """Measure the candidates that can be on a Pareto front of recall against speed.

    More effort never takes less time and never finds less (`Effort`). So a candidate takes at least as long as any
    measured point of less effort, and finds at most what any of more effort finds; where that much recall is known to
    be had in that little time, for every k, it is skipped. Noise in the measured times can cost a point that would have
    been on the front by less than that noise.

    Args:
        engine: says how much effort parameters are.
        tried: candidates, in this order.
        known: points of an earlier run, taken as measured.
        measure: measures one candidate.
        advance: is called after each candidate.

    Returns:
        the points of all candidates that were not skipped, and the number of those that were.
    """
    stored = {engine.effort(point.parameters): point for point in known}
    measured: dict[Effort, OperatingPoint] = {}
    skipped = 0
    for parameters in tried:
        effort = engine.effort(parameters)
        if effort in stored:
            measured[effort] = stored[effort]
        elif _cannot_matter(effort, measured):
            skipped += 1
        else:
            measured[effort] = measure(parameters)
        advance()
    return list(measured.values()), skipped


def _cannot_matter(effort: Effort, measured: Mapping[Effort, OperatingPoint]) -> bool:
    quicker = [point for other, point in measured.items() if _covers(effort.time, other.time)]
    better = [point for other, point in measured.items() if _covers(other.recall, effort.recall)]
    if not quicker or not better:
        return False
    fastest = min(point.queries_per_s for point in quicker)
    as_fast = [point.recall for point in measured.values() if point.queries_per_s >= fastest]
    return all(
        max(recall[k] for recall in as_fast) >= min(point.recall[k] for point in better) for k in better[0].recall
    )


def _covers(some: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(mine >= theirs for mine, theirs in zip(some, other, strict=True))


def pareto_front(points: Iterable[OperatingPoint], k: int) -> list[OperatingPoint]:
    """Points than which no other is as fast with a higher R@k, nor faster with the same: fastest first.

    Raises:
        ValueError: R@k was not measured.
    """
    points = list(points)
    for point in points:
        if k not in point.recall:
            known = ", ".join(map(str, point.recall))
            raise ValueError(f"k={k!r}: R@k was measured at {known}: give one of these, or recall_at=[..., {k}]")
    return metrics.undominated(points, lambda point: -point.queries_per_s, lambda point: -point.recall[k])


def fastest_with(points: Iterable[OperatingPoint], k: int, recall: float) -> OperatingPoint | None:
    """Return the fastest point with this much R@k, None if there is none."""
    # shares of a number of queries: differences below a millionth are rounding
    good = [point for point in points if point.recall[k] >= recall - 1e-6]
    return max(good, key=lambda point: point.queries_per_s, default=None)


class PointFile:
    """`points.jsonl`: what the points depend on in the first line, then a point a line.

    A line that was being written when the process ended is dropped.

    Args:
        path: made with its folder at the first point.
        circumstances: plain values that all points of a file share: index, data, threads, how it is measured.

    Raises:
        ValueError: the file holds points of other circumstances, or is something else.
    """

    def __init__(self, path: Path, circumstances: Mapping[str, Any]) -> None:
        self._path, self._circumstances = path, dict(circumstances)
        self.points: list[OperatingPoint] = []
        lines = _whole_lines(path)
        if not lines:
            return
        try:
            stored = dict(lines[0]["circumstances"])
            self.points = [OperatingPoint.from_record(line) for line in lines[1:]]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} holds no points of a search: choose another folder (hydra.run.dir=DIR)"
            ) from error
        for name in sorted({*stored, *circumstances}):
            before, now = stored.get(name), circumstances.get(name)
            if before != now:
                raise ValueError(
                    f"{path} holds points with {name}={before}, not {now}: choose another folder (hydra.run.dir=DIR)"
                )

    def append(self, point: OperatingPoint) -> None:
        """Write a point; when this returns it is on the disk."""
        if not self.points and not _whole_lines(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"circumstances": self._circumstances})
        self._append(point.to_record())
        self.points.append(point)

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> list[Any]:
    """Records of the lines that end; what follows the last of them is cut off. ValueError for lines of no JSON."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("rb+") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    try:
        return [json.loads(line) for line in content[:end].splitlines()]
    except ValueError as error:
        raise _not_ours(path) from error


def _not_ours(path: Path) -> ValueError:
    return ValueError(f"{path} holds no points of a search: choose another folder (hydra.run.dir=DIR)")
