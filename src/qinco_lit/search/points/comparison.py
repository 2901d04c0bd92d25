"""An index and a data set that it is measured with, next to indexes of faiss: what `search.json` says."""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from qinco_lit.devices import num_threads_in_use
from qinco_lit.environment import environment
from qinco_lit.progress import Progress
from qinco_lit.search.index import bundle as bundles
from qinco_lit.search.index.bundle import Bundle
from qinco_lit.search.points.engines import SearchEngine, SearcherEngine, check_positions
from qinco_lit.search.points.explore import Exploration, measured_points
from qinco_lit.search.points.faiss_engine_cache import EngineBuilder
from qinco_lit.search.points.measure import MeasureSettings
from qinco_lit.search.points.operating_points import PointFile, fastest_with, pareto_front
from qinco_lit.search.searcher import Searcher
from qinco_lit.vectors.rows import fingerprint

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2
# "queries/s within a point of the best": by so much less recall.
POINT = 0.01


@dataclass(frozen=True)
class SearchInputs:
    """An index and the queries that it is measured with, checked to belong together."""

    index_dir: Path
    bundle: Bundle
    searcher: Searcher
    data: Any
    queries: Shaped[np.ndarray, "nq dim"]
    ground_truth: Int64[np.ndarray, "nq _"]


def open_inputs(
    index_dir: Path,
    data: Any,
    num_queries: int | None,
    *,
    mmap: bool,
    num_threads: int | None,
    precision: str,
    device: str = "cpu",
) -> SearchInputs:
    """Load the index, open the data set's files and check that they fit.

    Raises:
        FileNotFoundError: no index, or a file of the data set is missing.
        ValueError: no queries, or an index of other vectors, or with ids of its own.
    """
    bundle = bundles.load_to_search(index_dir, mmap=mmap, device=device)
    data.prepare_data()
    data.setup("test")
    dim, num_database = int(data.database.shape[1]), int(data.database.shape[0])
    if data.queries is None:
        raise ValueError(f"data set {data.name} has no queries, so no recall: give data.queries=FILE")
    if bundle.codec.dim != dim:
        raise ValueError(f"{index_dir} holds vectors of dimension {bundle.codec.dim}, data set {data.name} has {dim}")
    if (bundle.config.get("inputs") or {}).get("ids") is not None:
        raise ValueError(
            f"{index_dir} was built with ids=FILE: recall needs positions in the database, which the true neighbours "
            "are; measure an index of the same codes without ids="
        )
    if bundle.metric != data.metric:
        raise ValueError(
            f"{index_dir} was built for metric={bundle.metric}, data set {data.name} has data.metric={data.metric}"
        )
    searcher = Searcher(bundle, num_threads=num_threads, precision=precision)
    if len(searcher) != num_database:
        raise ValueError(
            f"{index_dir} holds {len(searcher):,} vectors, the database of {data.name} has {num_database:,}: recall"
            " needs an index of this database"
        )
    check_positions(searcher, str(index_dir))
    return SearchInputs(
        index_dir=index_dir,
        bundle=bundle,
        searcher=searcher,
        data=data,
        queries=np.asarray(data.queries[: num_queries or len(data.queries)]),
        ground_truth=np.asarray(data.ground_truth[: num_queries or len(data.queries)]),
    )


def circumstances(
    inputs: SearchInputs, settings: MeasureSettings, *, mmap: bool, engine: SearcherEngine
) -> dict[str, Any]:
    """What all points of a file share: they can be compared, and need not be measured again."""
    facts = environment()
    return {
        "index": _checksum(inputs.bundle),
        "data": inputs.data.name,
        "queries": fingerprint(inputs.queries),
        "ground_truth": fingerprint(inputs.ground_truth),
        "threads": ", ".join(f"{name} {number}" for name, number in num_threads_in_use().items()),
        "recall_at": list(settings.recall_at),
        "batch_size": settings.batch_size,
        "warmup": settings.warmup,
        "repeats": settings.repeats,
        "latency_queries": settings.latency_queries,
        "mmap": mmap,
        "precision": inputs.searcher.precision,
        **({} if (device := inputs.bundle.codec.device).type == "cpu" else {"device": str(device)}),
        **({} if (refine := engine.refine) is None else {"refine": f"{refine.path} {refine.shape} {refine.dtype}"}),
        "faiss": facts["versions"]["faiss-cpu"],
        "processor": facts["hardware"]["processor"],
    }


def _checksum(bundle: Bundle) -> str:
    """Hash over the checksums of an index's parts."""
    return hashlib.blake2b(json.dumps(bundle.config["parts"], sort_keys=True).encode(), digest_size=8).hexdigest()


def _index_facts(inputs: SearchInputs) -> dict[str, Any]:
    """What `search.json` says of the index."""
    bundle = inputs.bundle
    return {
        "path": str(inputs.index_dir),
        "dim": bundle.codec.dim,
        "metric": bundle.metric,
        "num_vectors": len(inputs.searcher),
        "num_lists": inputs.searcher.num_lists,
        "bits_per_vector": bundle.codec.bits_per_vector,
        "model": bundle.codec.quantizer.config,
        "pairwise_bytes": None if bundle.pairwise is None else int(bundle.pairwise.num_bytes),
    }


def _data_facts(inputs: SearchInputs) -> dict[str, Any]:
    """What `search.json` says of the data set."""
    data = inputs.data
    return {
        "name": data.name,
        "dim": inputs.bundle.codec.dim,
        "metric": data.metric,
        "num_train": int(data.train_vectors.shape[0]),
        "num_database": int(data.database.shape[0]),
        "num_queries": len(inputs.queries),
    }


def measured_record(
    inputs: SearchInputs,
    engine: SearcherEngine,
    exploration: Exploration,
    *,
    baselines: Sequence[str],
    cache_dir: Path,
    file: PointFile,
    mmap: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the index and the baselines; the content of `search.json` (docs/search.md).

    Args:
        engine: the index, with the values to try.
        baselines: of `faiss_engines.METHODS`: same lists, same coarse search, codes of the same bytes; kept in
            `cache_dir`.
        file: of the points; those that are in it are not measured again.
    """
    settings = exploration.settings
    engines = {
        one.name: facts | _explored(one, inputs, exploration, file, progress)
        for one, facts in _engines(engine, inputs, baselines, cache_dir, progress)
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "index": _index_facts(inputs),
        "data": _data_facts(inputs),
        "settings": {
            "recall_at": list(settings.recall_at),
            "batch_size": settings.batch_size,
            "warmup": settings.warmup,
            "repeats": settings.repeats,
            "latency_queries": settings.latency_queries,
            "strategy": exploration.strategy,
            "max_points": exploration.max_points,
            "seed": exploration.seed,
            "precision": inputs.searcher.precision,
            "mmap": mmap,
            **({} if engine.refine is None else {"refine": engine.refine_facts}),
        },
        "num_threads": num_threads_in_use(),
        **environment(),
        "engines": engines,
    }


def _engines(
    engine: SearcherEngine, inputs: SearchInputs, baselines: Sequence[str], cache_dir: Path, progress: Progress
) -> Iterator[tuple[SearchEngine, dict[str, Any]]]:
    """Yield every engine and what is known of it, one at a time, so that only one baseline is in memory."""
    yield engine, {"bytes_per_vector": dict(engine.bytes_per_vector), "build": None}
    if not baselines:
        return
    codec = inputs.bundle.codec
    progress.start("reading the database", None)
    builder = EngineBuilder(
        coarse=inputs.searcher.coarse,
        metric=inputs.data.metric,
        train_vectors=inputs.data.train_vectors,
        database=inputs.data.database,
        num_bytes=-(-codec.bits_per_vector // 8),
        cache_dir=cache_dir,
    )
    for method in dict.fromkeys(baselines):
        progress.note(f"{method}: building, or reading what an earlier search has built")
        efforts = {name: engine.parameters[name] for name in ("nprobe", "ef_search")}
        cached = builder.engine(method, progress=progress, **efforts)
        build = {
            "settings": cached.settings,
            "num_training_rows": cached.num_training_rows,
            "build_s": cached.build_s,
            "from_cache": cached.from_cache,
        }
        yield cached.engine, {"bytes_per_vector": dict(cached.engine.bytes_per_vector), "build": build}


def _explored(
    engine: SearchEngine, inputs: SearchInputs, exploration: Exploration, file: PointFile, progress: Progress
) -> dict[str, Any]:
    """Measure an engine; its part of the record."""
    found = measured_points(
        engine, inputs.queries, inputs.ground_truth, exploration, known=file.points, keep=file.append,
        progress=progress,
    )  # fmt: skip
    points = found.points
    fronts = {k: pareto_front(points, k) for k in exploration.settings.recall_at}
    near = {k: fastest_with(points, k, fronts[k][-1].recall[k] - POINT) for k in fronts}
    return {
        "parameters": {name: list(values) for name, values in engine.parameters.items()},
        "num_candidates": found.num_candidates,
        "num_skipped": found.num_skipped,
        "points": [point.to_record() for point in points],
        # places in `points`
        "fronts": {str(k): [points.index(point) for point in front] for k, front in fronts.items()},
        "best": {str(k): points.index(front[-1]) for k, front in fronts.items()},
        "within_a_point_of_the_best": {str(k): points.index(point) for k, point in near.items() if point is not None},
    }
