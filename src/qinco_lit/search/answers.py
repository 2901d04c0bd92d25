"""Queries in, results out: what users may ask, of whatever finds them."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from qinco_lit.devices import default_torch
from qinco_lit.search.parameters import ResolvedParameters, SearchParameters, as_matrix
from qinco_lit.search.pipeline import SearchTrace
from qinco_lit.search.refine import open_originals, refined
from qinco_lit.vectors.neighbours import Metric
from qinco_lit.vectors.rows import unit_rows


class AnswersQueries(ABC):
    """An index that is searched, wherever it lies.

    Attributes:
        num_threads: among which the queries of a call are shared; None: as many as torch has there.
    """

    num_threads: int | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Vectors of the index."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimension of the vectors."""

    @property
    @abstractmethod
    def num_lists(self) -> int:
        """Lists of the coarse quantizer."""

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Codes per vector."""

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """What is searched for: the smallest squared L2 (`l2`), the largest inner product (`ip`) or `cosine`."""

    @property
    @abstractmethod
    def has_pairwise(self) -> bool:
        """Whether there is a pairwise decoder."""

    @abstractmethod
    def _traced(self, queries: Float32[np.ndarray, "queries dim"], parameters: ResolvedParameters) -> SearchTrace:
        """All stages of a search of checked queries."""

    def _reading(self) -> AbstractContextManager[None]:
        """While it is held, nothing changes the index."""
        return nullcontext()

    def search(
        self, queries: Any, k: int = 10, *, refine: Any = None, **parameters: int | None
    ) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
        """The k nearest vectors of each query: (distances, ids), best first, both (num_queries, k).

        Args:
            queries: (num_queries, dim), float32, or any dtype of vectors.
            k: results per query. Where fewer vectors are found the rest is id -1 with distance inf (-inf for `ip`
                and `cosine`).
            refine: the original vectors, by which the best `num_refine` are ranked anew: row i is the vector of id i,
                whatever ids the index has. What `open_vectors` opens or has opened, of any dtype; of the file only
                these rows are read.
            **parameters: `nprobe`, `ef_search`, `num_additive`, `num_pairwise`, `num_steps`, and with `refine`
                `num_refine`, of `SearchParameters`.

        Returns:
            distances: squared L2 between query and decoded vector; inner products for `ip` and `cosine` (of unit
            queries, with decoded vectors), larger is better; with `refine` of the original vectors in their place.
            ids: int64; of equal distances the smaller id first.

        Raises:
            FileNotFoundError: no file of original vectors.
            ValueError: wrong dimension, NaN or infinity in a query, a parameter that is unknown, below 1 or no whole
                number, no pairwise decoder, more steps than the index has; original vectors of another dimension, or
                without a row for an id.
        """
        trace = self.trace(queries, k, refine=refine, **parameters)
        return trace.distances, trace.ids

    @default_torch()
    def trace(self, queries: Any, k: int = 10, *, refine: Any = None, **parameters: int | None) -> SearchTrace:
        """`search`, with the ranking and the seconds of every stage."""
        given, x = SearchParameters.of(parameters), self._queries(queries)
        refines = refine is not None and given.num_refine != 0
        with self._reading():
            if refines:
                originals = open_originals(refine, dim=self.dim, num_vectors=len(self), metric=self.metric)
            resolved = given.resolved(
                k,
                num_vectors=len(self),
                num_lists=self.num_lists,
                stored_steps=self.num_steps,
                has_pairwise=self.has_pairwise,
                refines=refines,
            )
            trace = self._traced(x, resolved)
        found = min(k, resolved.k)
        if refines:
            of_products = self.metric != "l2"
            trace = refined(x, trace, found, originals, inner_product=of_products, num_threads=self.num_threads)
        missing = k - found
        return _padded(trace, missing, np.inf if self.metric == "l2" else -np.inf) if missing else trace

    def _queries(self, queries: Any) -> Float32[np.ndarray, "queries dim"]:
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinity
            x = np.ascontiguousarray(as_matrix(queries, self.dim, what="queries", owner="index"), dtype=np.float32)
        finite = np.isfinite(x).all(axis=1)
        if not finite.all():
            raise ValueError(f"query {int(finite.argmin())} holds NaN or infinity")
        return unit_rows(x) if self.metric == "cosine" else x


def _padded(trace: SearchTrace, missing: int, worst: float) -> SearchTrace:
    """Columns without a vector after the others; those of the last stage too."""
    columns = ((0, 0), (0, missing))
    ids = np.pad(trace.ids, columns, constant_values=-1)
    distances = np.pad(trace.distances, columns, constant_values=worst)
    last = list(trace.stages)[-1]
    return SearchTrace(distances, ids, {**trace.stages, last: trace.stages[last]._replace(ids=ids)})
