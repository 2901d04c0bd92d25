"""`centroids`: a file of vectors to the centroids of an index's lists, resumable."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qinco_lit.coarse.centroids import train_centroids
from qinco_lit.vectors import VectorFile


def centroids(config: Mapping[str, Any], vectors: VectorFile) -> None:
    """Find the centroids of lists among vectors by k-means, and write them with a record of what was measured.

    Args:
        config: the options of the command, whose names are those of `train_centroids`.
        vectors: (num_rows, dim), to train on.
    """
    options = {name: value for name, value in config.items() if name not in ("input", "data", "data_dir", "output")}
    train_centroids(vectors, output=Path(config["output"]), **options)
