"""True nearest neighbours of the queries: read from a file, or computed exactly once and kept."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from qinco_lit.progress import Progress
from qinco_lit.vectors import VectorFile, exact_neighbours, open_vectors, remote, write_vectors
from qinco_lit.vectors.layout import is_url
from qinco_lit.vectors.neighbours import Metric, comparison

NUM_NEIGHBOURS = 100

_log = logging.getLogger(__name__)


def found_neighbours(
    queries: Any, database: Any, k: int, *, metric: Metric, show: bool = True
) -> Int64[np.ndarray, "num_queries k"]:
    """Ids of the k nearest database rows of each query (`exact_neighbours`); how far it is, is shown."""
    with Progress("rows", show=show) as progress:
        progress.start("true neighbours", len(database))
        return exact_neighbours(queries, database, k, metric=comparison(metric), advance=progress.advance)[1]


def read_ground_truth(path: str, *, num_queries: int, num_database: int) -> Int64[np.ndarray, "num_queries k"]:
    """Read the ids of the true nearest neighbours, nearest first, from an ivecs, ibin or npy file.

    Where a query has fewer neighbours than the file has columns, -1 may stand in the places after the first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not integers, another number of queries, or ids outside of the database.
    """
    stored = open_vectors(path)
    return checked_ground_truth(stored, path, num_queries=num_queries, num_database=num_database)


def checked_ground_truth(
    given: VectorFile | np.ndarray, name: str, *, num_queries: int, num_database: int
) -> Int64[np.ndarray, "num_queries k"]:
    """The ids as int64. Raises ValueError, naming where they are from, as `read_ground_truth` does."""
    if given.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: ground truth holds {given.dtype}, expected integer ids: give an ivecs, ibin or npy file"
        )
    if given.ndim != 2 or not given.shape[1]:
        raise ValueError(f"{name}: ground truth of shape {given.shape}: give ids (queries, neighbours)")
    if len(given) != num_queries:
        raise ValueError(
            f"{name}: ground truth of {len(given)} queries, there are {num_queries}: give the matching files"
        )
    ids = given[:].astype(np.int64)
    outside = (ids < -1) | (ids >= num_database)
    outside[:, 0] |= ids[:, 0] < 0
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(
            f"{name}: id {ids[row, column]} of query {row} is outside of the database of {num_database} rows:"
            " give the matching files"
        )
    return ids


def exact_ground_truth(
    queries: VectorFile, database: VectorFile, *, first_row: int, cache_dir: str, metric: Metric = "l2"
) -> Int64[np.ndarray, "num_queries k"]:
    """Return the 100 (or all) nearest database rows of each query, from the cache or by brute force.

    Args:
        queries: (num_queries, dim); of unit length for cosine.
        database: (num_database, dim), a row range of its file; of unit length for cosine.
        first_row: where that range starts; with the paths, sizes and times of the files it is the key of the cache.
        cache_dir: folder of the cache, made when needed.
        metric: what nearest means; part of the key.
    """
    k = min(NUM_NEIGHBOURS, len(database))
    if queries.is_array or database.is_array:  # nothing tells one array from another
        return found_neighbours(queries, database, k, metric=metric)
    facts: list[Any] = [
        _file_facts(queries),
        len(queries),
        _file_facts(database),
        first_row,
        len(database),
        k,
    ]
    if metric != "l2":  # keys of squared L2 stay what they were before there were others
        facts.append(metric)
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    cached = Path(cache_dir) / f"ground_truth-{key}.npy"
    if not cached.exists():
        _log.info("computing the %d nearest of %d rows for %d queries, once", k, len(database), len(queries))
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_vectors(cached, found_neighbours(queries, database, k, metric=metric))
    return read_ground_truth(str(cached), num_queries=len(queries), num_database=len(database))


def _file_facts(vectors: VectorFile) -> tuple[Any, ...]:
    """Path, size and time of the file; of several, all of theirs."""
    if vectors.row_groups is not None:  # which column it is, is in the path
        return (vectors.path, *((file, *_version(file)) for file in vectors.files))
    if len(vectors.files) > 1:
        return tuple((file, *_version(file)) for file in vectors.files)
    stat = Path(vectors.files[0]).stat()
    return str(Path(vectors.path).resolve()), stat.st_size, stat.st_mtime_ns


def _version(file: str) -> tuple[int, int | str]:
    """Size and time of a file; of one at a url, what its server calls the version."""
    if is_url(file):
        return remote.facts(file)
    stat = Path(file).stat()
    return stat.st_size, stat.st_mtime_ns
