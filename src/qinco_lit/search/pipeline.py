"""What happens to queries, stage by stage, and which of them are worked on together, each by one thread.

Chunks of queries depend on the batch, never on who works on them: threads of this process (`Pipeline`), or processes
that have a part of the lists each (`parts.py`).
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, Integer

from qinco_lit.codec import Codec
from qinco_lit.devices import one_faiss_thread
from qinco_lit.quantizers.workers import for_each
from qinco_lit.search.index.bundle import Bundle
from qinco_lit.search.parameters import ResolvedParameters
from qinco_lit.search.plain_scan import Candidates, PlainScan
from qinco_lit.search.progressive import ProgressiveDecoder, Sample
from qinco_lit.search.rerank import Decode, rerank
from qinco_lit.search.scan import AdditiveScan

_CPU = torch.device("cpu")
_BATCH_QUERIES = 4096  # whose shortlists are in memory together
_BATCH_QUERIES_GPU = 1024  # whose shortlists are decoded together
_MIN_SCREENED = 256  # candidates that are decoded together; fewer are decoded faster in float32 at once
# what a thread takes at a time is a sixteenth of a batch, within bounds of what is fast: in queries, in candidates
_PARTS, _MOST_SCANNED, _FEWEST_DECODED, _MOST_DECODED = 16, 32, 512, 4096

Rows = Int64[np.ndarray, " rows"]


class Stage(NamedTuple):
    """The ranking of one stage of a search, and the seconds it took; `additive` includes the search for the lists."""

    ids: Int64[np.ndarray, "queries size"]
    seconds: float


class SearchTrace(NamedTuple):
    """Result of a search with those of its stages: additive, pairwise (where it is used), decode, refine (likewise)."""

    distances: Float32[np.ndarray, "queries k"]
    ids: Int64[np.ndarray, "queries k"]
    stages: dict[str, Stage]


# A stage of some queries: its name, the queries, what the stage before has found for them, the rows of each chunk, the
# parameters; what it finds for each chunk.
RunStage = Callable[
    [str, Float[np.ndarray, "queries dim"], Candidates | None, list[Rows], ResolvedParameters], list[Candidates]
]


def query_batches(num_queries: int, *, on_cpu: bool) -> list[tuple[int, int]]:
    """Ranges of queries whose shortlists are in memory together; `on_cpu`: where the full decoder is."""
    rows = _BATCH_QUERIES if on_cpu else _BATCH_QUERIES_GPU
    return [(start, min(start + rows, num_queries)) for start in range(0, max(1, num_queries), rows)]


def search_batch(
    queries: Float[np.ndarray, "queries dim"],
    parameters: ResolvedParameters,
    run: RunStage,
    *,
    on_cpu: bool,
    num_devices: int = 1,
) -> SearchTrace:
    """All stages for the queries of a batch.

    Args:
        queries: raw space.
        parameters: for this index.
        run: a stage.
        on_cpu: where the full decoder is; of a GPU the queries are one chunk for each of `num_devices`.
        num_devices: GPUs that decode side by side.
    """
    stages = {}

    def ranked(stage: str, found: Candidates | None, order: Rows, together: int) -> Candidates:
        began = time.perf_counter()
        found = _in_chunks(lambda chunks: run(stage, queries, found, chunks, parameters), order, together)
        stages[stage] = Stage(found.ids, time.perf_counter() - began)
        return found

    together = min(_MOST_SCANNED, -(-len(queries) // _PARTS))
    found = ranked("additive", None, np.arange(len(queries)), together)
    if parameters.num_pairwise:
        found = ranked("pairwise", found, *_neighbours(found))
    order, together = _neighbours(found)
    found = ranked("decode", found, order, together if on_cpu else -(-len(queries) // num_devices))
    return SearchTrace(found.scores, found.ids, stages)


class FullDecoders:
    """The codec in the precisions that its reconstructions are computed in.

    Args:
        codec: of the index.
        precision: a name as of `Codec`.

    Attributes:
        exact: of the results.
        rough: that all candidates are decoded with first; None: with `exact`.
        precision: float32, screened or bfloat16.

    Raises:
        ValueError: an unknown precision.
    """

    def __init__(self, codec: Codec, precision: str) -> None:
        self.exact, self.rough = Codec(codec.quantizer, precision=precision), None
        self.precision = self.exact.precision
        if self.precision == "screened":
            self.exact = Codec(codec.quantizer, precision="float32")
            self.rough = Codec(codec.quantizer, precision="bfloat16")


class Pipeline:
    """The stages of a search in an index, in this process.

    Args:
        bundle: with the decoders.
        scan: of its lists.
        decoders: of its codec.

    Attributes:
        sample: of the index, by which the decoder drops candidates; asked at the first search that does.
        on_cpu: where the full decoder is.
        precision: of the full decoder.
    """

    def __init__(self, bundle: Bundle, scan: AdditiveScan | PlainScan, decoders: FullDecoders) -> None:
        self._scan, self._pairwise_decoder, self._inner_product = scan, bundle.pairwise, bundle.metric != "l2"
        self._exact, self._rough, self.precision = decoders.exact, decoders.rough, decoders.precision
        self.sample: Sample = scan.sample
        # a GPU decodes all candidates in less time than it would wait for a decision between two steps
        self.on_cpu = self._exact.device.type == "cpu"
        self._progressive = {
            codec: ProgressiveDecoder(
                codec,
                bundle.additive.codebooks,
                by_residual=scan.by_residual,
                inner_product=self._inner_product,
                sample=lambda: self.sample(),
            )
            for codec in (self._exact, self._rough)
            if codec is not None and self.on_cpu
        }

    def search(
        self, queries: Float[np.ndarray, "queries dim"], parameters: ResolvedParameters, num_threads: int | None
    ) -> SearchTrace:
        """All stages.

        Args:
            queries: raw space.
            parameters: for this index.
            num_threads: among which the work is shared; None: as many as torch has here.
        """
        number = torch.get_num_threads() if num_threads is None else num_threads
        run = partial(self._run, num_threads=number)
        parts: list[SearchTrace] = []

        def batch(start: int, stop: int) -> None:
            parts.append(search_batch(queries[start:stop], parameters, run, on_cpu=self.on_cpu))

        # by one thread, which has others help it
        for_each(batch, query_batches(len(queries), on_cpu=self.on_cpu), self._exact.device, num_threads=1)
        return joined_traces(parts)

    def run(
        self,
        stage: str,
        queries: Float[np.ndarray, "queries dim"],
        found: Candidates | None,
        chunks: list[Rows],
        parameters: ResolvedParameters,
        num_threads: int | None,
    ) -> list[Candidates]:
        """A stage alone, as a search runs it (`RunStage`)."""
        number = torch.get_num_threads() if num_threads is None else num_threads
        results: list[Candidates] = []

        def work(start: int, stop: int) -> None:  # noqa: ARG001 (all of it)
            results.extend(self._run(stage, queries, found, chunks, parameters, num_threads=number))

        for_each(work, [(0, len(queries))], self._exact.device, num_threads=1)
        return results

    def _run(
        self,
        stage: str,
        queries: Float[np.ndarray, "queries dim"],
        found: Candidates | None,
        chunks: list[Rows],
        parameters: ResolvedParameters,
        *,
        num_threads: int,
    ) -> list[Candidates]:
        results: dict[int, Candidates] = {}

        def chunk(start: int, stop: int) -> None:  # noqa: ARG001 (one at a time)
            rows = chunks[start]
            of_rows = None if found is None else found.of(rows)
            results[start] = self._stage(stage, queries[rows], of_rows, parameters, num_threads)

        if len(chunks) == 1:
            chunk(0, 1)
        else:
            ranges = [(number, number + 1) for number in range(len(chunks))]
            for_each(chunk, ranges, _CPU, num_threads=num_threads)
        return [results[number] for number in range(len(chunks))]

    def _stage(
        self,
        stage: str,
        queries: Float[np.ndarray, "queries dim"],
        found: Candidates | None,
        parameters: ResolvedParameters,
        num_threads: int,
    ) -> Candidates:
        k, nprobe, ef_search, num_additive, num_pairwise, num_steps = parameters
        if found is None:
            with one_faiss_thread():
                return self._scan.search(queries, num_additive, nprobe=nprobe, ef_search=ef_search)
        if stage == "pairwise":
            return rerank(queries, found, num_pairwise, self._pairwise, inner_product=self._inner_product)
        return self._decoded(queries, found, k, num_steps, num_threads)

    def _decoded(
        self, queries: Float[np.ndarray, "queries dim"], found: Candidates, k: int, num_steps: int, num_threads: int
    ) -> Candidates:
        finalists = k + k // 8 + 2  # of 10,000 queries for 10 results, this left out none (benchmarks/RESULTS.md)
        # the rough pass costs half of an exact one
        if self._rough is not None and found.ids.size >= _MIN_SCREENED and 2 * finalists <= found.ids.shape[1]:
            found = self._reranked(queries, found, finalists, self._rough, num_steps, num_threads)
        return self._reranked(queries, found, k, self._exact, num_steps, num_threads)

    def _reranked(
        self,
        queries: Float[np.ndarray, "queries dim"],
        found: Candidates,
        size: int,
        codec: Codec,
        num_steps: int,
        num_threads: int,
    ) -> Candidates:
        if self.on_cpu:
            progressive = self._progressive[codec]
            return progressive.rerank(queries, found, size, num_steps=num_steps, num_threads=num_threads)
        decode, inner_product = self._decoding(codec), self._inner_product
        return rerank(queries, found, size, decode, inner_product=inner_product, num_steps=num_steps)

    def _pairwise(
        self, codes: Integer[np.ndarray, "n steps"], list_ids: Int32[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n dim"]:
        assert self._pairwise_decoder is not None
        x_hat: Float32[np.ndarray, "n dim"] = self._pairwise_decoder.decode(list_ids, codes)
        if self._scan.by_residual:
            x_hat += self._scan.centroids[list_ids]
        return x_hat

    def _decoding(self, codec: Codec) -> Decode:
        def decode(
            codes: Integer[np.ndarray, "n steps"], list_ids: Int32[np.ndarray, " n"]
        ) -> Float32[np.ndarray, "n dim"]:
            x_hat: Float32[np.ndarray, "n dim"] = codec.decode(
                codes, list_ids=list_ids if self._scan.by_residual else None
            )
            return x_hat

        return decode


def _neighbours(found: Candidates) -> tuple[Rows, int]:
    """Queries in an order in which those that share candidates are near each other, and how many to take together."""
    queries, size = found.ids.shape
    pairs = min(_MOST_DECODED, max(_FEWEST_DECODED, queries * size // _PARTS))
    return np.argsort(found.list_ids[:, 0], kind="stable"), max(1, pairs // size)


def _in_chunks(work: Callable[[list[Rows]], list[Candidates]], order: Rows, together: int) -> Candidates:
    """What `work` finds for so many queries at a time, in their own order."""
    if len(order) <= together:
        return work([np.arange(len(order))])[0]
    columns = zip(*work([order[start : start + together] for start in range(0, len(order), together)]), strict=True)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return Candidates(*(np.concatenate(column)[back] for column in columns))


def joined_traces(parts: list[SearchTrace]) -> SearchTrace:
    """One search of all queries, from those of its batches."""
    if len(parts) == 1:
        return parts[0]
    stages = {
        name: Stage(
            np.concatenate([part.stages[name].ids for part in parts]),
            sum(part.stages[name].seconds for part in parts),
        )
        for name in parts[0].stages
    }
    distances, ids = (np.concatenate([getattr(part, field) for part in parts]) for field in ("distances", "ids"))
    return SearchTrace(distances, ids, stages)
