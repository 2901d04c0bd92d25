"""What the sets that are built on this machine have in common."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from qinco_lit.progress import Progress
from qinco_lit.vectors import VectorFile, exact_neighbours, write_vectors
from qinco_lit.vectors.neighbours import Metric

NUM_NEIGHBOURS = 100


def check_sizes(name: str, sizes: Mapping[str, int], seed: int, *, seed_option: str) -> None:
    """Raise ValueError when a size of the set `name` is below 1 or its seed is negative."""
    for key, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: {key}={size}: give at least 1")
    if seed < 0:
        raise ValueError(f"{name}: {seed_option}={seed}: give 0 or more")


def write_true_neighbours(
    name: str,
    folder: Path,
    queries: Shaped[np.ndarray, "queries dim"],
    database: VectorFile,
    progress: Progress,
    *,
    metric: Metric = "l2",
) -> None:
    """Write `groundtruth.ivecs`: the NUM_NEIGHBOURS nearest database rows of each query, of fewer all."""
    progress.start(f"{name}: true neighbours", len(database), unit="rows")
    num_found = min(NUM_NEIGHBOURS, len(database))
    _, ids = exact_neighbours(queries, database, num_found, metric=metric, advance=progress.advance)
    write_vectors(folder / "groundtruth.ivecs", ids.astype(np.int32))
