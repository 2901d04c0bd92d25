"""What is measured: an index that answers queries, ours behind the same interface as any other."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, Shaped

from qinco_lit.search.parameters import SearchParameters
from qinco_lit.search.refine import open_originals
from qinco_lit.search.searcher import Searcher
from qinco_lit.vectors import VectorFile


class EngineResult(NamedTuple):
    """Results of a batch of queries, best first, -1 where there is none; and (ids or None, seconds) of every stage."""

    ids: Int64[np.ndarray, "queries k"]
    stages: dict[str, tuple[Int64[np.ndarray, "queries _"] | None, float]]


class Effort(NamedTuple):
    """What a search has to do, so that searches can be compared before they are run.

    One whose `time` is no smaller in any component takes no less time; one whose `recall` is no smaller in any
    component finds no less. Equal efforts are the same search.
    """

    time: tuple[int, ...]
    recall: tuple[int, ...]


@runtime_checkable
class SearchEngine(Protocol):
    """An index with parameters that buy recall with time, given per call: searching never changes the engine."""

    @property
    def name(self) -> str:
        """What it is called in files."""

    @property
    def bytes_per_vector(self) -> Mapping[str, float]:
        """Memory of a vector by part: codes, norm, ...; without its id of 8 bytes. Its list is implied by its place."""

    @property
    def parameters(self) -> Mapping[str, Sequence[int]]:
        """Values to try, ascending."""

    def effort(self, parameters: Mapping[str, int]) -> Effort:
        """What a search with these parameters has to do."""

    def search(self, queries: Shaped[np.ndarray, "queries dim"], k: int, **parameters: int) -> EngineResult:
        """The k nearest vectors of each query."""


class SearcherEngine:
    """A `Searcher` as an engine.

    `num_pairwise=0` means no pairwise stage: all of `num_additive` are decoded, which finds most, so it comes last.

    Args:
        searcher: the index.
        refine: original vectors, as of `Searcher.search`; None: what is decoded stays as it is.
        **values: of `SearchParameters`, to try; None: those of `default_grid`, or nothing but the default.

    Attributes:
        refine: these, open.

    Raises:
        FileNotFoundError: no file of original vectors.
        ValueError: values that the index cannot have, originals that are not its own.
    """

    name = "qinco"

    def __init__(self, searcher: Searcher, *, refine: Any = None, **values: Sequence[int] | None) -> None:
        self._searcher = searcher
        self.refine: VectorFile | None = None
        parts = searcher.bytes_per_vector
        self.bytes_per_vector: Mapping[str, float] = {part: size for part, size in parts.items() if part != "id"}
        grid = default_grid(searcher.num_lists, has_pairwise=searcher.has_pairwise)
        if refine is not None:
            self.refine = open_originals(refine, dim=searcher.dim, num_vectors=len(searcher), metric=searcher.metric)
            grid["num_refine"] = [10]
        elif number := max(values.get("num_refine") or (0,)):
            raise ValueError(f"num_refine={number}: give refine as well, the original vectors")
        SearchParameters.of(dict.fromkeys(values))  # refuses other names
        for name in SearchParameters.names():
            tried = values.get(name)
            if name in grid or tried is not None:
                grid[name] = checked_values(name, tried, grid.get(name, ()), num_lists=searcher.num_lists)
        if any(grid["num_pairwise"]) and not searcher.has_pairwise:
            raise ValueError(
                f"num_pairwise={max(grid['num_pairwise'])}: the index has no pairwise decoder, leave num_pairwise out"
            )
        if (most := max(grid.get("num_steps", [0]))) > searcher.num_steps:
            raise ValueError(f"num_steps={most}: the index has {searcher.num_steps} codes per vector")
        grid["num_pairwise"] = sorted(grid["num_pairwise"], key=lambda number: number or np.inf)
        self.parameters: Mapping[str, Sequence[int]] = grid

    @property
    def refine_facts(self) -> dict[str, Any] | None:
        """The file of the original vectors, and the bytes of each in it."""
        if self.refine is None:
            return None
        return {
            "file": self.refine.path,
            "bytes_per_vector": self.refine.as_stored().dtype.itemsize * self.refine.shape[1],
        }

    def effort(self, parameters: Mapping[str, int]) -> Effort:
        """nprobe, breadth of the coarse search, shortlists, codes that are decoded; is there a pairwise stage.

        And how many are refined, and result: a search that refines 10 gives 10 results.
        """
        nprobe, (shortlist, decoded) = parameters["nprobe"], _shortlists(parameters)
        steps = parameters.get("num_steps", self._searcher.num_steps)
        recall: tuple[int, ...] = (nprobe, max(parameters["ef_search"], nprobe), shortlist, decoded, steps)
        if (num_refine := parameters.get("num_refine")) is not None:
            recall += (num_refine, num_refine or decoded)
        # without its pairwise stage a search decodes more: which of the two takes longer is not known
        return Effort((*recall, int(decoded < shortlist)), recall)

    def search(self, queries: Shaped[np.ndarray, "queries dim"], k: int, **parameters: int) -> EngineResult:
        """The k nearest vectors of each query among those that are decoded, which may be fewer than k."""
        shortlist, decoded = _shortlists(parameters)
        # the searcher would raise its shortlists to k; what is asked here is how well small ones do
        size = min(k, parameters.get("num_refine") or decoded)
        lengths = {"num_additive": shortlist, "num_pairwise": 0 if decoded == shortlist else decoded}
        trace = self._searcher.trace(queries, size, refine=self.refine, **{**parameters, **lengths})
        ids = np.full((len(trace.ids), k), -1, dtype=np.int64)
        ids[:, :size] = trace.ids
        return EngineResult(ids, {name: (stage.ids, stage.seconds) for name, stage in trace.stages.items()})


def _shortlists(parameters: Mapping[str, int]) -> tuple[int, int]:
    """Sizes of the additive shortlist, which the searcher raises to that of the next, and of what is decoded."""
    decoded = max(parameters["num_pairwise"] or parameters["num_additive"], parameters.get("num_refine", 0))
    return max(parameters["num_additive"], decoded), decoded


def default_grid(num_lists: int, *, has_pairwise: bool) -> dict[str, list[int]]:
    """Values to try for an index of so many lists.

    nprobe doubles up to a quarter of the lists (16 at least, 4,096 at most); the other numbers grow fourfold.
    """
    most = min(num_lists, max(16, min(4096, num_lists // 4)))
    ef_search = [value for value in (16, 64, 256) if value < num_lists]
    return {
        "nprobe": [1 << power for power in range(most.bit_length())],
        "ef_search": ef_search or [num_lists],
        "num_additive": [16, 64, 256, 1024],
        "num_pairwise": [4, 16, 64, 0] if has_pairwise else [0],
    }


def checked_values(name: str, values: Sequence[int] | None, default: Sequence[int], *, num_lists: int) -> list[int]:
    """Return the values of a parameter, ascending, each once; None gives the default.

    Raises:
        ValueError: no value, one below 1 (0 for num_pairwise), or more lists than there are.
    """
    if values is None:
        return list(default)
    if not values:
        raise ValueError(f"{name}=[]: give at least one value, or null for a choice of them")
    least = SearchParameters.least(name)
    for value in values:
        if value < least:
            raise ValueError(f"{name}={value}: give at least {least}")
        if name == "nprobe" and value > num_lists:
            raise ValueError(f"nprobe={value}: the index has {num_lists} lists")
    return sorted(set(values))


def check_positions(searcher: Searcher, name: str = "the index") -> None:
    """Raise ValueError if ids are not positions in the database, as true neighbours are."""
    if not searcher.ids_are_positions:
        raise ValueError(
            f"{name} holds ids that are not positions in its vectors (given ones, or it was changed since it was "
            "built): recall needs positions; build it anew, without ids"
        )
