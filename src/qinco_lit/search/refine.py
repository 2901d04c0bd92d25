"""The last shortlist ranked anew by the original vectors, which stay in their file: row i is the vector of id i."""

import time
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64

from qinco_lit.quantizers.workers import for_each
from qinco_lit.search.pipeline import SearchTrace, Stage
from qinco_lit.search.plain_scan import Candidates
from qinco_lit.search.rerank import rerank
from qinco_lit.vectors import VectorFile, as_vectors_file
from qinco_lit.vectors.neighbours import Metric

_CPU = torch.device("cpu")
_GATHERED_BYTES = 4 << 20  # of the vectors that a thread reads at a time


def open_originals(vectors: Any, *, dim: int, num_vectors: int, metric: Metric) -> VectorFile:
    """The original vectors of an index, as its metric sees them.

    Args:
        vectors: as of `as_vectors_file`.
        dim, num_vectors, metric: of the index.

    Raises:
        FileNotFoundError: a missing file.
        ValueError: no file of vectors, another dimension, fewer rows than the index has vectors.
    """
    rows = as_vectors_file(vectors, "refine")
    if rows.shape[1] != dim:
        raise ValueError(f"refine={rows.path}: its vectors have dimension {rows.shape[1]}, those of the index {dim}")
    if len(rows) < num_vectors:  # ids are distinct and start from 0: one has no row, whatever they are
        raise ValueError(
            f"refine={rows.path}: {len(rows):,} rows for an index of {num_vectors:,} vectors: row i is id i"
        )
    return rows.unit() if metric == "cosine" else rows


def refined(
    queries: Float32[np.ndarray, "queries dim"],
    trace: SearchTrace,
    k: int,
    originals: VectorFile,
    *,
    inner_product: bool,
    num_threads: int | None,
) -> SearchTrace:
    """A search whose results are the `k` best of what it found, by the original vectors; its last stage is `refine`.

    Args:
        queries: raw space.
        trace: of the search.
        k: at most the results that it has.
        originals: of which the rows of these ids are read.
        inner_product: whether larger is better.
        num_threads: that read; None: as many as torch has here.

    Raises:
        ValueError: an id without a row, or a file that has become shorter.
    """
    began = time.perf_counter()
    if trace.ids.size and (last := int(trace.ids.max())) >= len(originals):
        raise ValueError(f"refine={originals.path}: no row for id {last}, it has {len(originals):,}: row i is id i")
    number, size = trace.ids.shape
    together = max(1, _GATHERED_BYTES // (4 * size * originals.shape[1]))
    distances = np.empty((number, k), dtype=np.float32)
    ids: Int64[np.ndarray, "queries k"] = np.empty((number, k), dtype=np.int64)

    def read(keys: Int64[np.ndarray, "n 1"], _: Int32[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        return originals[keys[:, 0]].astype(np.float32, copy=False)

    def chunk(start: int, stop: int) -> None:
        found = trace.ids[start:stop]
        # what makes a vector the same as another is its id here
        candidates = Candidates(
            trace.distances[start:stop], found, np.zeros(found.shape, dtype=np.int32), found[:, :, None]
        )
        best = rerank(queries[start:stop], candidates, k, read, inner_product=inner_product)
        distances[start:stop], ids[start:stop] = best.scores, best.ids

    ranges = [(start, min(start + together, number)) for start in range(0, number, together)]
    for_each(chunk, ranges, _CPU, num_threads=torch.get_num_threads() if num_threads is None else num_threads)
    stages = {**trace.stages, "refine": Stage(ids, time.perf_counter() - began)}
    return SearchTrace(distances, ids, stages)
