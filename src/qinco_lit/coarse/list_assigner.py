"""The coarse quantizer of an index: an HNSW graph over the centroids, and the list of each vector."""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, Shaped

from qinco_lit.devices import threads
from qinco_lit.vectors.neighbours import Metric

log = logging.getLogger(__name__)
_faiss: Any = faiss  # its stubs lack the parameters of a search

NUM_LINKS = 32  # of a node on the upper levels of the graph; the lowest level has twice as many
# Up to so many lists brute force is at least as fast as the graph. One core with AVX-512, SIFT, 128 dimensions: 6,600
# rows/s by brute force against 7,500 (efSearch=64) with 65,536 lists; with 16,384 about 27,000 (four times as many)
# against 15,000 (efSearch=32). What assigns in place of this up to here, the codec's torch code, is slower than faiss.
EXACT_LISTS = 16_384
# Assignment through the graph may add this share to the mean squared error, measured on a sample of the first rows.
MAX_EXCESS = 1e-3
_SAMPLE_ROWS = 2_048
_FIRST_EF_SEARCH = 32
_kept: ContextVar[dict[Any, Any] | None] = ContextVar("graphs over centroids", default=None)


@contextmanager
def graphs_kept() -> Iterator[None]:
    """Inside, a graph over the same centroids is built once, however often `hnsw_index` is asked for it."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def hnsw_index(centroids: Float32[np.ndarray, "lists dim"], metric: Metric = "l2") -> Any:
    """Graph over the centroids, a `faiss.IndexHNSWFlat`: the same bytes for the same input, on any number of threads.

    It is built by one thread, because several link the nodes in the order in which they happen to come: 6 s
    for 65,536 centroids of 128 dimensions with AVX-512, and by extrapolation some 5 minutes for 2^20.

    Args:
        centroids: in raw space, normalised where the metric is cosine.
        metric: what nearest means; cosine is the inner product of normalised vectors.
    """
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    rows, graphs = np.ascontiguousarray(centroids), _kept.get()
    key = None if graphs is None else (kind, rows.shape, hashlib.sha256(rows.data).digest())
    if graphs is None or key not in graphs:
        index = faiss.IndexHNSWFlat(centroids.shape[1], NUM_LINKS, kind)
        with threads(1):
            index.add(rows)
        if graphs is None:
            return index
        graphs[key] = index
    return faiss.clone_index(graphs[key])  # callers own and change theirs


class ListAssigner:
    """The nearest centroid of each row by squared L2: exactly, or through a graph whose error is measured.

    With the graph, the first 2,048 rows that come are also assigned exactly, and the breadth of the search (efSearch)
    is doubled until the mean squared error of these rows is within 0.1 % of the exact one. From then on the
    list of a row depends on nothing but the row; so give a first call with enough rows where that must be sure.
    `report` holds what was measured.

    Args:
        centroids: (num_lists, dim), in raw space.
        exact: brute force; None: up to EXACT_LISTS lists.
        graph: over these centroids for squared L2 (`hnsw_index`); None: built here where it is needed.

    Raises:
        ValueError: centroids that are not finite.
    """

    def __init__(
        self, centroids: Float32[np.ndarray, "lists dim"], *, exact: bool | None = None, graph: Any = None
    ) -> None:
        if not np.isfinite(centroids).all():
            raise ValueError("centroids hold NaN or infinity")
        self._exact = len(centroids) <= EXACT_LISTS if exact is None else exact
        self._centroids = np.ascontiguousarray(centroids)
        # The matrix product of brute force rounds less when the norms are small.
        self._origin = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._flat: Any = None
        self._graph: Any = None
        self._ef_search = _FIRST_EF_SEARCH
        self._sampled = _Sample.empty(centroids.shape[1])
        self.report: dict[str, Any] = {"num_lists": len(centroids), "method": "exact" if self._exact else "hnsw"}
        if not self._exact:
            began = time.perf_counter()
            self._graph = hnsw_index(self._centroids) if graph is None else graph
            self.report["build_s"] = round(time.perf_counter() - began, 3)

    def __call__(self, x: Shaped[np.ndarray, "n dim"]) -> Int32[np.ndarray, " n"]:
        """List of each row.

        Raises:
            ValueError: rows of another dimension, or NaN or infinity in one, named by its place.
        """
        if x.ndim != 2 or x.shape[1] != self._centroids.shape[1]:
            raise ValueError(f"rows of shape {x.shape} for centroids of dimension {self._centroids.shape[1]}")
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(x, dtype=np.float32)
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            raise ValueError(f"vector {int(bad.argmax())} holds NaN or infinity (after conversion to float32)")
        if not self._exact:
            self._measure(rows)
        return (self._exactly(rows) if self._exact else self._through_graph(rows)).astype(np.int32)

    def _exactly(self, rows: Float32[np.ndarray, "n dim"]) -> Int64[np.ndarray, " n"]:
        if self._flat is None:
            self._flat = faiss.IndexFlatL2(rows.shape[1])
            self._flat.add(self._centroids - self._origin)
        return np.asarray(self._flat.search(rows - self._origin, 1)[1][:, 0])

    def _through_graph(self, rows: Float32[np.ndarray, "n dim"]) -> Int64[np.ndarray, " n"]:
        search = _faiss.SearchParametersHNSW(efSearch=self._ef_search)
        return np.asarray(self._graph.search(rows, 1, params=search)[1][:, 0])

    def _measure(self, rows: Float32[np.ndarray, "n dim"]) -> None:
        """Let the sample grow by evenly spaced rows until it is full, and search wider where it asks for that."""
        wanted = min(_SAMPLE_ROWS - len(self._sampled.rows), len(rows))
        if wanted < 1:
            return
        some = rows[np.arange(wanted) * len(rows) // wanted]
        self._sampled.extend(some, self._squared_l2(some, self._exactly(some)))
        best = float(self._sampled.squared_l2.mean())
        while not self._exact:
            found = self._squared_l2(self._sampled.rows, self._through_graph(self._sampled.rows))
            excess = float(found.mean()) - best
            if excess <= MAX_EXCESS * best:
                break
            log.info(
                "efSearch=%d adds %.2f %% to the error of assignment to %s lists: doubled",
                self._ef_search, 100 * excess / max(best, np.finfo(float).tiny), f"{len(self._centroids):,}",
            )  # fmt: skip
            self._ef_search *= 2
            if self._ef_search > len(self._centroids):
                self._exact = True
        self._say(best, excess)

    def _say(self, best: float, excess: float) -> None:
        """Record what holds for the sample, and free what only the measurement needed."""
        self.report |= {
            "method": "exact" if self._exact else "hnsw",
            "ef_search": None if self._exact else self._ef_search,
            "sample_rows": len(self._sampled.rows),
            "excess": 0.0 if self._exact or best == 0 else excess / best,
        }
        if self._exact:
            log.warning("no breadth of the graph's search is good enough: lists are assigned by brute force")
        elif len(self._sampled.rows) == _SAMPLE_ROWS:
            log.info(
                "lists are assigned through HNSW, efSearch=%d: %.3f %% above the exact error on %s rows",
                self._ef_search, 100 * self.report["excess"], f"{_SAMPLE_ROWS:,}",
            )  # fmt: skip
            self._flat = None

    def _squared_l2(
        self, rows: Float32[np.ndarray, "n dim"], lists: Int64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        differences = np.subtract(rows, self._centroids[lists], dtype=np.float64)
        return np.asarray(np.einsum("ij,ij->i", differences, differences))


class _Sample:
    """Rows whose exact squared L2 to the nearest centroid is known."""

    def __init__(self, rows: Float32[np.ndarray, "n dim"], squared_l2: Float64[np.ndarray, " n"]) -> None:
        self.rows, self.squared_l2 = rows, squared_l2

    @classmethod
    def empty(cls, dim: int) -> "_Sample":
        return cls(np.empty((0, dim), np.float32), np.empty(0))

    def extend(self, rows: Float32[np.ndarray, "n dim"], squared_l2: Float64[np.ndarray, " n"]) -> None:
        self.rows = np.concatenate([self.rows, rows])
        self.squared_l2 = np.concatenate([self.squared_l2, squared_l2])
