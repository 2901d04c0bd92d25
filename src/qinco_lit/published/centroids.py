"""Coarse centroids beside the published checkpoints: `ivf_centroids_*.npy`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from qinco_lit.vectors import VectorFile, VectorWriter, open_vectors

_BLOCK_ROWS = 1 << 16


def read_centroids(path: str | Path) -> Float32[np.ndarray, "lists dim"]:
    """Coarse centroids (num_lists, dim), float32, in the space of the raw vectors.

    The published npy files are taken to be in raw space, the tensor inside an IVF checkpoint is normalised
    (algorithm: *Encoding*, *Published checkpoints*).

    Raises:
        FileNotFoundError: no such file.
        ValueError: no matrix of floating-point numbers in an npy file, or NaN or infinity in a row.
    """
    return np.concatenate(list(_blocks(_open(path))))


def write_centroids(path: str | Path, output: str | Path) -> tuple[int, int]:
    """Check a file of centroids and write it as float32 npy, atomically and in flat memory; its shape is returned.

    Raises:
        FileNotFoundError, ValueError: as `read_centroids`; an output that is no `.npy`.
    """
    if Path(output).suffix != ".npy":
        raise ValueError(f"--output {output}: centroids become an npy file, name it FILE.npy")
    vectors = _open(path)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with VectorWriter(output, dim=vectors.shape[1], dtype=np.float32, num_rows=len(vectors)) as writer:
        for block in _blocks(vectors):
            writer.append(block)
    return vectors.shape


def _open(path: str | Path) -> VectorFile:
    if Path(path).suffix != ".npy":
        raise ValueError(f"{path} is no npy file: the published centroids are ivf_centroids_*.npy")
    vectors = open_vectors(path)
    if vectors.dtype.kind != "f":
        raise ValueError(f"{path} holds {vectors.dtype}: centroids are floating-point numbers")
    return vectors


def _blocks(vectors: VectorFile) -> Iterator[Float32[np.ndarray, "rows dim"]]:
    for first in range(0, len(vectors), _BLOCK_ROWS):
        with np.errstate(over="ignore"):
            block = vectors[first : first + _BLOCK_ROWS].astype(np.float32)
        bad = ~np.isfinite(block).all(1)
        if bad.any():
            raise ValueError(f"{vectors.path}: row {first + int(bad.argmax())} holds NaN or infinity")
        yield block
