"""Operating points of an index: which parameters buy how much recall at which speed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped

from qinco_lit.data.ground_truth import found_neighbours
from qinco_lit.devices import default_torch, threads
from qinco_lit.options import Count, check_ranges, checked
from qinco_lit.progress import Progress
from qinco_lit.search.parameters import as_matrix
from qinco_lit.search.points.engines import SearchEngine, SearcherEngine, check_positions
from qinco_lit.search.points.measure import MeasureSettings, measure_point
from qinco_lit.search.points.operating_points import OperatingPoint, candidates, points_that_matter
from qinco_lit.search.searcher import Searcher
from qinco_lit.vectors import as_vectors_file
from qinco_lit.vectors.neighbours import METRICS


@dataclass(frozen=True)
class Exploration:
    """Which points are measured, and how.

    Attributes:
        settings: of a measurement.
        strategy: grid: all combinations that can matter; random: of `max_points` of them, drawn by `seed`.
        max_points: for random, per engine.
        seed: of the order of the points.

    Raises:
        ValueError: impossible options.
    """

    settings: MeasureSettings = field(default_factory=MeasureSettings)
    strategy: str = "grid"
    max_points: Count | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        settings = self.settings
        if not settings.recall_at:
            raise ValueError("recall_at=[]: give at least one k")
        check_ranges(self)
        check_ranges(settings)
        if self.strategy not in ("grid", "random"):
            raise ValueError(f"strategy={self.strategy!r}: give grid or random")
        if (self.strategy == "random") != (self.max_points is not None):
            raise ValueError("strategy=random draws max_points=N of the grid: give both, or neither for all of it")


class Explored(NamedTuple):
    """The points of an engine, fastest first, and how many candidates there were, and were skipped."""

    points: list[OperatingPoint]
    num_candidates: int
    num_skipped: int


@checked
@default_torch()
def explore(
    searcher: Searcher,
    queries: Any,
    *,
    ground_truth: Any = None,
    database: Any = None,
    recall_at: Sequence[int] = (1, 10, 100),
    strategy: str = "grid",
    max_points: int | None = None,
    batch_size: int = 1024,
    warmup: int = 1,
    repeats: int = 3,
    latency_queries: int = 200,
    num_threads: Count | None = None,
    seed: int = 0,
    refine: Any = None,
    progress: bool | None = None,
    **parameters: Sequence[int] | None,
) -> list[OperatingPoint]:
    """Measure recall, queries/s and latency of an index where it can matter; `pareto_front` gives the best points.

    More of a parameter never takes less time and never finds less, so points that others bound are left out.

    Args:
        searcher: the index.
        queries: (num_queries, dim), array or file.
        ground_truth: (num_queries, any) ids of the true neighbours, nearest first; only the nearest counts.
        database: vectors (n, dim) whose positions are the ids of the index: the true neighbours are found in them, by
            brute force and the metric of the index, where they are not given.
        recall_at: every k of R@k, the share of queries whose true neighbour is in the first k results; each query asks
            for the largest.
        strategy: grid: all combinations that can matter; random: of `max_points` of them, drawn by `seed`.
        max_points: for random.
        batch_size: queries in a batch.
        warmup: batches before the clock starts.
        repeats: passes over the queries, of which the median counts.
        latency_queries: queries that are also asked one by one; 0: none.
        num_threads: of torch and faiss; None: as they are.
        seed: of the order of the points.
        refine: original vectors, by which every search ranks its best anew, as of `Searcher.search`.
        progress: False: nothing is shown.
        **parameters: values to try of `nprobe`, `ef_search`, `num_additive`, `num_pairwise` (0: no such stage),
            `num_steps` and, with `refine`, `num_refine` (0: not refined); what is not given takes the values of
            `engines.default_grid`.

    Returns:
        The measured points, fastest first.

    Raises:
        FileNotFoundError: a missing file.
        ValueError: impossible options, queries, ground truth or a database that do not fit the index.
    """
    if not isinstance(searcher, Searcher):
        raise ValueError(
            f"searcher is of type {type(searcher).__name__}: give what build_index or Searcher.load returns"
        )
    settings = MeasureSettings(tuple(dict.fromkeys(recall_at)), batch_size, warmup, repeats, latency_queries)
    exploration = Exploration(settings, strategy, max_points, seed)
    engine = SearcherEngine(searcher, refine=refine, **parameters)
    asked = as_vectors_file(queries, "queries")
    x = as_matrix(asked[:], searcher.dim, what="queries", owner="index")
    if ground_truth is not None:
        truth = (
            np.asarray(as_vectors_file(ground_truth, "ground_truth")[:])
            if isinstance(ground_truth, str | Path)
            else None
        )
        truth = np.asarray(ground_truth) if truth is None else truth
        if truth.ndim != 2 or len(truth) != len(x) or truth.dtype.kind not in "iu" or truth.shape[1] == 0:
            raise ValueError(
                f"ground_truth of shape {truth.shape} and dtype {truth.dtype}: expected ({len(x)}, k) integers"
            )
    elif database is None:
        raise ValueError("recall needs the true neighbours: give ground_truth, or the database to find them in")
    else:
        truth = _nearest(searcher, x, database, show=progress is not False)
        check_positions(searcher)
    with threads(num_threads), Progress("points", show=progress is not False) as shown:
        return measured_points(engine, x, truth, exploration, progress=shown).points


def _nearest(
    searcher: Searcher, queries: Shaped[np.ndarray, "nq dim"], database: Any, *, show: bool
) -> Integer[np.ndarray, "nq 1"]:
    rows = as_vectors_file(database, "database")
    if rows.shape != (len(searcher), searcher.dim):
        raise ValueError(f"database has shape {rows.shape}, the index holds {(len(searcher), searcher.dim)}")
    metric = next(each for each in METRICS if each == searcher.metric)
    asked = as_vectors_file(queries, "queries")
    if metric == "cosine":
        rows, asked = rows.unit(), asked.unit()
    return found_neighbours(asked, rows, 1, metric=metric, show=show)


def measured_points(
    engine: SearchEngine,
    queries: Shaped[np.ndarray, "nq dim"],
    ground_truth: Integer[np.ndarray, "nq _"],
    exploration: Exploration,
    *,
    known: Iterable[OperatingPoint] = (),
    keep: Callable[[OperatingPoint], None] = lambda _: None,
    progress: Progress,
) -> Explored:
    """Measure an engine.

    Args:
        known: points of an earlier run, of any engine, taken as measured.
        keep: takes each point as soon as it is measured.
        progress: is told the points.
    """
    tried = candidates(engine, strategy=exploration.strategy, max_points=exploration.max_points, seed=exploration.seed)
    progress.start(f"{engine.name}: points", len(tried), unit="points")
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress.advance()

    def measured(parameters: Mapping[str, int]) -> OperatingPoint:
        point = measure_point(engine, parameters, queries, ground_truth, exploration.settings)
        keep(point)
        progress.note(f"{engine.name}: point {done + 1} of {len(tried)}: {_in_words(point)}")
        return point

    ours = [point for point in known if point.engine == engine.name]
    points, num_skipped = points_that_matter(engine, tried, known=ours, measure=measured, advance=advance)
    points.sort(key=lambda point: -point.queries_per_s)
    return Explored(points, len(tried), num_skipped)


def _in_words(point: OperatingPoint) -> str:
    parameters = " ".join(f"{name}={value}" for name, value in point.parameters.items())
    recall = ", ".join(f"R@{k} {100 * value:.1f} %" for k, value in point.recall.items())
    return f"{parameters}: {recall}, {point.queries_per_s:,.0f} queries/s"
