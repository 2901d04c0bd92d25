"""What a search found, stage by stage."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64


class Stage(NamedTuple):
    """The ranking of one stage of a search, and the seconds it took; `additive` includes the search for the lists."""

    ids: Int64[np.ndarray, "queries size"]
    seconds: float


class SearchTrace(NamedTuple):
    """Result of a search with the results of its stages: additive, pairwise (where it is used), decode."""

    distances: Float32[np.ndarray, "queries k"]
    ids: Int64[np.ndarray, "queries k"]
    stages: dict[str, Stage]


def padded(trace: SearchTrace, missing: int, worst: float) -> SearchTrace:
    """Columns without a vector after the others."""
    columns = ((0, 0), (0, missing))
    ids = np.pad(trace.ids, columns, constant_values=-1)
    distances = np.pad(trace.distances, columns, constant_values=worst)
    return SearchTrace(distances, ids, {**trace.stages, "decode": trace.stages["decode"]._replace(ids=ids)})


def joined(parts: list[SearchTrace]) -> SearchTrace:
    """One search of all queries, from those of its batches."""
    stages = {
        name: Stage(
            np.concatenate([part.stages[name].ids for part in parts]),
            sum(part.stages[name].seconds for part in parts),
        )
        for name in parts[0].stages
    }
    distances, ids = (np.concatenate([getattr(part, field) for part in parts]) for field in ("distances", "ids"))
    return SearchTrace(distances, ids, stages)
