"""Tensors of a checkpoint against the model they are for: every one there, of its shape, finite."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from qinco_lit.codec_folder import load_tensors, tensors
from qinco_lit.quantizers import Quantizer


def check_sizes(source: Path | str, declared: Mapping[str, object], found: Mapping[str, int]) -> None:
    """ValueError for a size that is declared (None counts as not) and is not that of the tensors.

    `source` is the file, with a part of it where there is one.
    """
    for name, size in found.items():
        said = declared.get(name)
        if said is not None and said != size:
            raise ValueError(f"{source}: its parameters say {name}={said!r}, its tensors {name}={size}")


def fill(quantizer: Quantizer, state: Mapping[str, Tensor], names: Mapping[str, str], source: Path) -> None:
    """Load a model's weights.

    Args:
        quantizer: the model to fill.
        state: tensors by published name, any floating dtype; they become float32.
        names: published name -> that of `codec_folder.tensors`, for all of the model.
        source: the file, for errors.

    Raises:
        ValueError: a tensor missing, unknown, of the wrong shape, or with NaN or infinity in it.
    """
    unknown = [name for name in state if name not in names]
    missing = [name for name in names if name not in state]
    if unknown or missing:
        raise ValueError(f"{source} does not fit its parameters: missing {missing[:3]}, unknown {unknown[:3]}")
    own = tensors(quantizer)
    for theirs, ours in names.items():
        if state[theirs].shape != own[ours].shape:
            found, asked = tuple(state[theirs].shape), tuple(own[ours].shape)
            raise ValueError(f"{source}: {theirs} has shape {found}, the model needs {asked}")
        check_finite(source, theirs, state[theirs])
    load_tensors(quantizer, {ours: state[theirs].float() for theirs, ours in names.items()})
    for scale in quantizer.data_std.tolist():
        if not scale > 0:
            raise ValueError(f"{source}: vectors cannot be divided by {scale}")


def check_finite(source: Path, name: str, tensor: Tensor) -> None:
    """ValueError for a tensor that is not of floating-point numbers, all finite in float32."""
    if not tensor.is_floating_point():
        raise ValueError(f"{source}: {name} holds {tensor.dtype}, not floating-point numbers")
    if not bool(torch.isfinite(tensor.float()).all()):
        raise ValueError(f"{source}: {name} holds NaN or infinity")
