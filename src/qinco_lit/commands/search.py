"""`search`: which parameters of an index buy how much recall at which speed, next to indexes of faiss."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

from qinco_lit.commands.measuring import progress_bar
from qinco_lit.commands.search_inputs import (
    Inputs,
    circumstances,
    data_facts,
    index_facts,
    open_inputs,
)
from qinco_lit.commands.search_output import write_results
from qinco_lit.environment import environment
from qinco_lit.options import unknown
from qinco_lit.reports.search import rich_tables, search_notes
from qinco_lit.reports.wandb_tables import send_search, track
from qinco_lit.search.points.engines import Engine, SearcherEngine, check_ids
from qinco_lit.search.points.faiss_engine_cache import EngineBuilder
from qinco_lit.search.points.faiss_engines import METHODS
from qinco_lit.search.points.file import PointFile
from qinco_lit.search.points.operating_points import OperatingPoint, candidates, explore, fastest_with, pareto_front
from qinco_lit.search.points.timing import Timing, measure_point
from qinco_lit.threads import num_threads_in_use, threads

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
DEFAULT_CACHE_DIR = Path("outputs/cache/baselines")
# "queries/s within a point of the best": by so much less recall.
POINT = 0.01


@dataclass(frozen=True)
class _Exploration:
    """Which points are measured, and how."""

    timing: Timing
    strategy: str
    max_points: int | None
    seed: int


def search(
    *,
    index_dir: Path,
    data: Any,
    output_dir: Path,
    baselines: Sequence[str] = (),
    nprobe: Sequence[int] | None = None,
    ef_search: Sequence[int] | None = None,
    num_additive: Sequence[int] | None = None,
    num_pairwise: Sequence[int] | None = None,
    num_steps: Sequence[int] | None = None,
    strategy: Literal["grid", "random"] = "grid",
    max_points: int | None = None,
    recall_at: Sequence[int] = (1, 10, 100),
    num_queries: int | None = None,
    batch_size: int = 1024,
    warmup: int = 1,
    repeats: int = 3,
    latency_queries: int = 200,
    num_threads: int | None = None,
    precision: str = "auto",
    mmap: bool = False,
    seed: int = 0,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    logger: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure operating points of an index and of faiss baselines; write and print the Pareto fronts.

    Every point is appended to `points.jsonl` when it is measured; the same call with the same `output_dir` takes the
    points that are there. At the end `search.md`, `search.csv`, `search.png/.svg` and `search.json` are written.

    Args:
        index_dir: what `qinco index` wrote, of the data set's database, without ids of its own.
        data: a data module (docs/architecture.md) with queries.
        output_dir: where the results go, made when needed.
        baselines: of `faiss_engines.METHODS`: same lists, same coarse search, codes of the same bytes; trained on the
            data set's training rows and kept in `cache_dir`.
        nprobe, ef_search: values to try, for baselines too; None: see `engines.default_grid`.
        num_additive, num_pairwise: values to try; 0 pairwise: the stage is left out.
        num_steps: values to try, of the codes that the full decoder reads; None: all codes.
        strategy: grid: all combinations that can matter; random: of `max_points` of them, drawn by `seed`.
        max_points: for random, per engine.
        recall_at: every k of R@k; each query asks for the largest.
        num_queries: the first of the data set's queries only; None: all.
        batch_size: queries in a batch.
        warmup: batches before the clock starts.
        repeats: passes over the queries, of which the median counts.
        latency_queries: queries that are also asked one by one; 0: none.
        num_threads: of torch and faiss; None: as many as each takes by itself, all cores.
        precision: of the full decoder: auto, fast, float32, screened, bfloat16 (see `Searcher`).
        mmap: leave the lists of the index on the disk.
        seed: of the order of the points.
        cache_dir: where filled baselines are kept.
        logger: arguments of `start_wandb`, None for no W&B.
        config: what W&B records as the run's configuration.

    Returns:
        The content of `search.json` (docs/search.md).

    Raises:
        FileNotFoundError: no index, or a file of the data set is missing.
        ValueError: impossible options, an index of other vectors, or an `output_dir` with points of another search.
    """
    timing = Timing(tuple(dict.fromkeys(recall_at)), batch_size, warmup, repeats, latency_queries)
    _check_options(baselines, timing, num_queries, num_threads, strategy, max_points)
    inputs = open_inputs(index_dir, data, num_queries, mmap=mmap, num_threads=num_threads, precision=precision)
    engine = SearcherEngine(
        inputs.searcher,
        nprobe=nprobe,
        ef_search=ef_search,
        num_additive=num_additive,
        num_pairwise=num_pairwise,
        num_steps=num_steps,
    )
    check_ids(engine, inputs.queries[:100], len(inputs.searcher))
    exploration = _Exploration(timing, strategy, max_points, seed)
    console = Console()
    with threads(num_threads), progress_bar(console) as progress:
        file = PointFile(output_dir / "points.jsonl", circumstances(inputs, timing, mmap=mmap))
        if file.points:
            log.info("%d points of an earlier run are in %s", len(file.points), output_dir)
        with track(output_dir, logger, config or {}, send_search) as tracker:
            engines = {}
            for one, facts in _engines(engine, inputs, baselines, cache_dir, progress):
                engines[one.name] = facts | _explored(one, inputs, exploration, file, progress)
            record = {
                "schema_version": SCHEMA_VERSION,
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "index": index_facts(inputs),
                "data": data_facts(inputs),
                "settings": {
                    "recall_at": list(timing.recall_at),
                    "batch_size": batch_size,
                    "warmup": warmup,
                    "repeats": repeats,
                    "latency_queries": latency_queries,
                    "strategy": strategy,
                    "max_points": max_points,
                    "seed": seed,
                    "precision": inputs.searcher.precision,
                    "mmap": mmap,
                },
                "num_threads": num_threads_in_use(),
                **environment(),
                "engines": engines,
            }
            write_results(record, output_dir)
            tracker(record)
    for table in rich_tables(record):
        console.print(table)
    console.print(search_notes(record), style="dim")
    console.print(f"results: {output_dir}", soft_wrap=True)
    return record


def _engines(
    engine: SearcherEngine, inputs: Inputs, baselines: Sequence[str], cache_dir: Path, progress: Progress
) -> Iterator[tuple[Engine, dict[str, Any]]]:
    """Yield every engine and what is known of it, one at a time, so that only one baseline is in memory."""
    yield engine, {"bytes_per_vector": dict(engine.bytes_per_vector), "build": None}
    if not baselines:
        return
    codec = inputs.bundle.codec
    task = progress.add_task("reading the database", total=None)
    builder = EngineBuilder(
        coarse=inputs.bundle.index.quantizer,
        metric=inputs.data.metric,
        train_vectors=inputs.data.train_vectors,
        database=inputs.data.database,
        num_bytes=-(-codec.bits_per_vector // 8),
        cache_dir=cache_dir,
    )
    for method in dict.fromkeys(baselines):
        progress.update(task, description=f"{method}: building")
        if progress.disable:  # no terminal: lines instead of the bar
            log.info("%s: building, or reading what an earlier search has built", method)
        cached = builder.engine(method, nprobe=engine.parameters["nprobe"], ef_search=engine.parameters["ef_search"])
        build = {
            "settings": cached.settings,
            "num_training_rows": cached.num_training_rows,
            "build_s": cached.build_s,
            "from_cache": cached.from_cache,
        }
        yield cached.engine, {"bytes_per_vector": dict(cached.engine.bytes_per_vector), "build": build}
    progress.remove_task(task)


def _explored(
    engine: Engine, inputs: Inputs, exploration: _Exploration, file: PointFile, progress: Progress
) -> dict[str, Any]:
    """Measure an engine; its part of the record."""
    tried = candidates(engine, strategy=exploration.strategy, max_points=exploration.max_points, seed=exploration.seed)
    task = progress.add_task(f"{engine.name}: points", total=len(tried))
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress.advance(task)

    def measured(parameters: Mapping[str, int]) -> OperatingPoint:
        point = measure_point(engine, parameters, inputs.queries, inputs.ground_truth, exploration.timing)
        file.append(point)
        if progress.disable:
            log.info("%s: point %d of %d: %s", engine.name, done + 1, len(tried), _in_words(point))
        return point

    known = [point for point in file.points if point.engine == engine.name]
    points, num_skipped = explore(engine, tried, known=known, measure=measured, advance=advance)
    points.sort(key=lambda point: -point.queries_per_s)
    fronts = {k: pareto_front(points, k) for k in exploration.timing.recall_at}
    near = {k: fastest_with(points, k, fronts[k][-1].recall[k] - POINT) for k in fronts}
    return {
        "parameters": {name: list(values) for name, values in engine.parameters.items()},
        "num_candidates": len(tried),
        "num_skipped": num_skipped,
        "points": [point.to_record() for point in points],
        # places in `points`
        "fronts": {str(k): [points.index(point) for point in front] for k, front in fronts.items()},
        "best": {str(k): points.index(front[-1]) for k, front in fronts.items()},
        "within_a_point_of_the_best": {str(k): points.index(point) for k, point in near.items() if point is not None},
    }


def _in_words(point: OperatingPoint) -> str:
    parameters = " ".join(f"{name}={value}" for name, value in point.parameters.items())
    recall = ", ".join(f"R@{k} {100 * value:.1f} %" for k, value in point.recall.items())
    return f"{parameters}: {recall}, {point.queries_per_s:,.0f} queries/s"


def _check_options(
    baselines: Sequence[str],
    timing: Timing,
    num_queries: int | None,
    num_threads: int | None,
    strategy: str,
    max_points: int | None,
) -> None:
    for method in baselines:
        if method not in METHODS:
            raise unknown("baseline", method, METHODS)
    if not timing.recall_at:
        raise ValueError("recall_at=[]: give at least one k")
    counts = {
        "num_queries": num_queries, "num_threads": num_threads, "max_points": max_points,
        "batch_size": timing.batch_size, "repeats": timing.repeats, "recall_at": min(timing.recall_at),
    }  # fmt: skip
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: give at least 1")
    for name, value in {"warmup": timing.warmup, "latency_queries": timing.latency_queries}.items():
        if value < 0:
            raise ValueError(f"{name}={value}: give at least 0")
    if (strategy == "random") != (max_points is not None):
        raise ValueError("strategy=random draws max_points=N of the grid: give both, or neither for all of it")
