"""An index whose lists are in parts, each searched where it lies: the results of the index that they make together.

Every part scans its lists, the best of all go on, and whichever part has time orders some of the queries' shortlists
by better reconstructions: what a search in one index does, chunk by chunk (`pipeline.py`).
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int32, Integer

from qinco_lit.devices import default_torch
from qinco_lit.search.answers import AnswersQueries
from qinco_lit.search.index.bundle import Bundle
from qinco_lit.search.parameters import ResolvedParameters
from qinco_lit.search.pipeline import Rows, SearchTrace, joined_traces, query_batches, search_batch
from qinco_lit.search.plain_scan import Candidates, centroids_of, joined_samples
from qinco_lit.search.searcher import Searcher
from qinco_lit.vectors.neighbours import Metric

# list ids and codes
SampledEntries = tuple[Int32[np.ndarray, " _"], Integer[np.ndarray, "_ steps"]]


@dataclass(frozen=True)
class PartFacts:
    """What is known of a part.

    Attributes:
        directory: it was read from.
        identity: SHA-256 of all that is searched; not of when it was made.
        number, parts: which part it is of how many; None where `qinco index` did not make it as one.
        num_vectors: in its lists.
        num_lists, dim, num_steps, metric, has_pairwise: as of `Searcher`.
        on_cpu: where its full decoder is.
        shared: what all parts of an index have in common, by name.
    """

    directory: str
    identity: str
    number: int | None
    parts: int | None
    num_vectors: int
    num_lists: int
    dim: int
    num_steps: int
    metric: Metric
    has_pairwise: bool
    on_cpu: bool
    shared: dict[str, Any]


class Shortlists(NamedTuple):
    """A stage's work for one part: some queries, what was found for them so far, and how many make each chunk."""

    queries: Float[np.ndarray, "queries dim"]
    found: Candidates | None
    sizes: list[int]


class IndexPart:
    """A part in the memory of a process, loaded at once; if that fails, each call tries again and says why not.

    Args:
        directory: of the part.
        options: of `Searcher.load`.
    """

    def __init__(self, directory: str, **options: Any) -> None:
        self._directory, self._options = directory, options
        with suppress(ValueError, OSError):
            _ = self._searcher

    @cached_property
    def _searcher(self) -> Searcher:
        return Searcher.load(self._directory, **self._options)

    @cached_property
    def _facts(self) -> PartFacts:
        return _facts(self._directory, self._searcher)

    def facts(self) -> PartFacts:
        """What is known of it. Raises FileNotFoundError, ValueError as `Searcher.load`."""
        return self._facts

    def sample(self) -> SampledEntries:
        """Some of its vectors."""
        return self._searcher.pipeline.sample()

    @default_torch()
    def run(
        self,
        stage: str,
        work: Shortlists,
        parameters: ResolvedParameters,
        identities: Sequence[str],
        sample: SampledEntries | None,
    ) -> Candidates:
        """What a stage finds for some queries, chunk after chunk.

        Args:
            stage: of `RunStage`.
            work: the queries.
            parameters: for the whole index.
            identities: of the parts that are searched together.
            sample: of the whole index; the first stage needs none.

        Raises:
            FileNotFoundError, ValueError: as `Searcher.load`; this part is another one by now.
        """
        if self._facts.identity not in identities:
            raise ValueError(f"{self._facts.directory} holds another index by now: make the searcher anew")
        pipeline = self._searcher.pipeline
        if sample is not None:
            pipeline.sample = lambda: sample
        stops = np.cumsum(work.sizes)
        chunks = [np.arange(stop - size, stop) for stop, size in zip(stops, work.sizes, strict=True)]
        found = pipeline.run(stage, work.queries, work.found, chunks, parameters, self._searcher.num_threads)
        return Candidates(*map(np.concatenate, zip(*found, strict=True)))


@runtime_checkable
class Parts(Protocol):
    """The parts of an index, wherever they are: each method of `IndexPart` that is called there by its name."""

    num_workers: int

    def every(self, method: str, *arguments: Any) -> list[Any]:
        """What each of the parts answers, in their order."""

    def share(self, method: str, each: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to calls that any part may take."""


class PartsSearcher(AnswersQueries):
    """Searches the parts of an index; distances and ids are those of the index that they are merged into.

    Only of vectors whose estimate is as near as that of the last one of a shortlist it may be others that are left out.

    Args:
        parts: that answer.
        facts: of each of them.

    Raises:
        ValueError: they are not of one index, one is there twice, or one is missing.
    """

    def __init__(self, parts: Parts, facts: Sequence[PartFacts]) -> None:
        _check_together(facts)
        self._parts, self._first = parts, facts[0]
        self._identities = [each.identity for each in facts]
        self._num_vectors = sum(each.num_vectors for each in facts)
        self._sample: SampledEntries | None = None

    def __len__(self) -> int:
        return self._num_vectors

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._first.dim

    @property
    def num_lists(self) -> int:
        """Lists of the coarse quantizer."""
        return self._first.num_lists

    @property
    def num_steps(self) -> int:
        """Codes per vector."""
        return self._first.num_steps

    @property
    def metric(self) -> Metric:
        """As of `Searcher`."""
        return self._first.metric

    @property
    def has_pairwise(self) -> bool:
        """Whether there is a pairwise decoder."""
        return self._first.has_pairwise

    def _traced(self, queries: Float32[np.ndarray, "queries dim"], parameters: ResolvedParameters) -> SearchTrace:
        if self._sample is None:
            self._sample = joined_samples(self._parts.every("sample"), self.num_lists)
        on_cpu, workers = self._first.on_cpu, self._parts.num_workers
        search = partial(search_batch, run=self._run, on_cpu=on_cpu, num_devices=workers)
        batches = query_batches(len(queries), on_cpu=on_cpu)
        return joined_traces([search(queries[start:stop], parameters) for start, stop in batches])

    def _run(
        self,
        stage: str,
        queries: Float[np.ndarray, "queries dim"],
        found: Candidates | None,
        chunks: list[Rows],
        parameters: ResolvedParameters,
    ) -> list[Candidates]:
        if found is None:
            work = _shortlists(queries, None, chunks)
            every = self._parts.every("run", stage, work, parameters, self._identities, None)
            inner_product, size = self.metric != "l2", parameters.num_additive
            return _split(Candidates.of_parts(every, size, inner_product=inner_product), chunks)
        shares = [each for each in np.array_split(np.arange(len(chunks)), self._parts.num_workers) if len(each)]
        works = [_shortlists(queries, found, [chunks[number] for number in share]) for share in shares]
        calls = [(stage, work, parameters, self._identities, self._sample) for work in works]
        return _split(Candidates(*map(np.concatenate, zip(*self._parts.share("run", calls), strict=True))), chunks)


def _shortlists(
    queries: Float[np.ndarray, "queries dim"], found: Candidates | None, chunks: Sequence[Rows]
) -> Shortlists:
    rows = np.concatenate(chunks)
    return Shortlists(queries[rows], None if found is None else found.of(rows), [len(chunk) for chunk in chunks])


def _split(found: Candidates, chunks: Sequence[Rows]) -> list[Candidates]:
    stops = np.cumsum([len(chunk) for chunk in chunks])
    return [found.of(np.arange(stop - len(chunk), stop)) for stop, chunk in zip(stops, chunks, strict=True)]


def _facts(directory: str, searcher: Searcher) -> PartFacts:
    bundle = searcher.bundle
    made_of = bundle.config.get("inputs") or {}
    files = {name: file["sha256"] for name, file in bundle.config["parts"].items() if name != "report.json"}
    return PartFacts(
        directory=directory,
        identity=hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        number=made_of.get("part"),
        parts=made_of.get("parts"),
        num_vectors=len(searcher),
        num_lists=searcher.num_lists,
        dim=searcher.dim,
        num_steps=searcher.num_steps,
        metric=searcher.metric,
        has_pairwise=searcher.has_pairwise,
        on_cpu=searcher.pipeline.on_cpu,
        shared=_shared(bundle, searcher),
    )


def _shared(bundle: Bundle, searcher: Searcher) -> dict[str, Any]:
    """What must be the same in all parts, in few bytes."""
    files = {name: record["sha256"] for name, record in bundle.config["parts"].items()}
    centroids = np.ascontiguousarray(centroids_of(searcher.coarse))
    return {
        "codec": files["codec/weights.safetensors"],
        "additive decoder": files["additive.safetensors"],
        "pairwise decoder": {name: sha256 for name, sha256 in files.items() if name.startswith("pairwise/")},
        "centroids": hashlib.sha256(centroids.tobytes()).hexdigest(),
        "metric": searcher.metric,
        "device": "CPU" if searcher.pipeline.on_cpu else "GPU",
    }


def _check_together(facts: Sequence[PartFacts]) -> None:
    if not facts:
        raise ValueError("parts is empty: give the folders of the parts of an index")
    first = facts[0]
    for place, each in enumerate(facts):
        differences = [name for name in first.shared if each.shared[name] != first.shared[name]]
        if each.parts != first.parts:
            differences.append("number of parts")
        if differences:
            raise ValueError(
                f"{each.directory} and {first.directory} are not of one index: {', '.join(differences)} differ; "
                "`qinco index parts=P merge=false` makes parts"
            )
        same = next((other for other in facts[:place] if other.identity == each.identity), None)
        if same is not None and each.num_vectors:
            raise ValueError(f"{each.directory} and {same.directory} are the same part")
    if first.parts is not None:
        missing = sorted(set(range(first.parts)) - {each.number for each in facts})
        if missing:
            raise ValueError(
                f"part {', '.join(map(str, missing))} of {first.parts} is missing: {first.directory} is one of them"
            )
