"""A published checkpoint, of either repository, becomes a codec."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from qinco_lit.codec import Codec
from qinco_lit.published.centroids import read_centroids
from qinco_lit.published.qinco1_models import build_qinco1
from qinco_lit.published.qinco1_release import read_qinco1_release
from qinco_lit.published.qinco2_layout import build_quantizer
from qinco_lit.published.torch_archive import check_is_archive


def import_checkpoint(path: str | Path, *, centroids: str | Path | None = None) -> Codec:
    """The codec of a checkpoint in the QINCo2 repository's layout, or of the QINCo1 release.

    The first kind is read with `weights_only=True`, the second by `inert_pickle`: no code of the file is run.

    Args:
        path: the `.pt` file.
        centroids: `.npy` file of coarse centroids (num_lists, dim) in raw space, for an IVF model that lacks them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such checkpoint, truncated, with more in it than a checkpoint needs (what, is named), tensors
            missing, not finite or of the wrong shape, parts or a rotation that do not fit together.
    """
    source = Path(path)
    check_is_archive(source)
    checkpoint = _read_weights_only(source)
    if checkpoint is None:
        model = read_qinco1_release(source)
        if centroids is not None:
            raise ValueError(f"{source} is of the QINCo1 release, which keeps its centroids: leave out {centroids}")
        return Codec(build_qinco1(model, source))
    missing = [key for key in ("model", "parameters") if key not in checkpoint]
    if missing:
        raise ValueError(f"{source} is no published QINCo2 checkpoint: {', '.join(missing)} missing")
    coarse = None if centroids is None else torch.from_numpy(read_centroids(centroids))
    return Codec(build_quantizer(checkpoint, source, coarse))


def _read_weights_only(source: Path) -> dict[Any, Any] | None:
    """The dict of a file of tensors and plain values; None for a pickle that holds more."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # 3 to 5: what it cannot read, it refuses
            checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return None
    except Exception as error:  # damaged bytes make torch's reader fail in any way
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{source} is no torch checkpoint or is damaged: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{source} is no published checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint
