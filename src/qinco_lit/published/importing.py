"""A published checkpoint, of either repository, becomes a codec."""

from pathlib import Path

import torch

from qinco_lit.codec import Codec
from qinco_lit.published.centroids import read_centroids
from qinco_lit.published.checkpoint_file import Record, read_checkpoint
from qinco_lit.published.qinco1_models import build_qinco1
from qinco_lit.published.qinco1_release import described
from qinco_lit.published.qinco2_layout import build_quantizer


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
