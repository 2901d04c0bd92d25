"""A published checkpoint, of either repository, becomes a codec; published centroids are read and checked."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from qinco_lit.codec import Codec
from qinco_lit.published.checkpoint_file import Record, read_checkpoint
from qinco_lit.published.qinco1_models import build_qinco1
from qinco_lit.published.qinco1_release import described
from qinco_lit.published.qinco2_layout import build_quantizer
from qinco_lit.vectors import VectorFile, VectorWriter, open_vectors

_BLOCK_ROWS = 1 << 16


def import_checkpoint(path: str | Path, *, centroids: str | Path | None = None) -> Codec:
    """The codec of a checkpoint in the QINCo2 repository's layout, or of the QINCo1 release.

    No code of the file is run (`checkpoint_file`).

    Args:
        path: the `.pt` file.
        centroids: `.npy` file of coarse centroids (num_lists, dim) in raw space, for an IVF model that lacks them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such checkpoint, truncated, with more in it than a checkpoint needs (what, is named), tensors
            missing, not finite or of the wrong shape, parts or a rotation that do not fit together.
    """
    source = Path(path)
    checkpoint = read_checkpoint(source)
    if isinstance(checkpoint, Record):
        if centroids is not None:
            raise ValueError(f"{source} is of the QINCo1 release, which keeps its centroids: leave out {centroids}")
        return Codec(build_qinco1(described(checkpoint, source), source))
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{source} is no published checkpoint: it holds a {type(checkpoint).__name__}")
    missing = [key for key in ("model", "parameters") if key not in checkpoint]
    if missing:
        raise ValueError(f"{source} is no published QINCo2 checkpoint: {', '.join(missing)} missing")
    coarse = None if centroids is None else torch.from_numpy(read_centroids(centroids))
    return Codec(build_quantizer(checkpoint, source, coarse))


# --- coarse centroids beside the published checkpoints: ivf_centroids_*.npy -------------------------------------------


def read_centroids(path: str | Path) -> Float32[np.ndarray, "lists dim"]:
    """Coarse centroids (num_lists, dim), float32, in the space of the raw vectors.

    The published npy files are taken to be in raw space, the tensor inside an IVF checkpoint is normalised
    (docs/checkpoints.md, *Coarse centroids*).

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
