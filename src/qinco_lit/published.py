"""Published QINCo2-repository checkpoints, read without running any code they hold."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qinco_lit.codec import Codec
from qinco_lit.quantizers import QINCo

# running statistics of the published trainer: not needed to encode or decode
_IGNORED_SUFFIXES = (".xtarget_mean", ".xtarget_var")


def import_checkpoint(path: str | Path) -> Codec:
    """The codec of a checkpoint in the published QINCo2 layout (algorithm: `torch.save` of a dict).

    The file is read with `weights_only=True`: tensors and plain containers, nothing that runs.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a checkpoint, tensors missing or of the wrong shape, or a model of another family.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no checkpoint at {source}")
    checkpoint = _read(source)
    parameters: dict[str, Any] = checkpoint["parameters"]
    if parameters.get("ivf_in_use"):
        raise ValueError(
            f"{source} is an IVF model (ivf_K={parameters.get('ivf_K')}), which this version does not read yet"
        )
    try:
        quantizer = _build(parameters, int(checkpoint["data_dim"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: its parameters {parameters} describe no QINCo model ({error!s})") from error
    state = {name.removeprefix("module."): value for name, value in checkpoint["model"].items()}
    quantizer.load_state_dict(_translate(state, published_names(quantizer), quantizer, source))
    return Codec(quantizer)


def published_names(quantizer: QINCo) -> dict[str, str]:
    """The published name of every weight of a model, mapped to ours."""
    names = {"data_mean": "data_mean", "data_std": "data_std", "steps.0.codebook.weight": "first_codebook"}
    for index, step in enumerate(quantizer.residual_steps()):
        theirs, ours = f"steps.{index + 1}", f"steps.{index}"
        names[f"{theirs}.codebook.weight"] = f"{ours}.codebook"
        if step.preselector is not None:
            names[f"{theirs}.substep.codebook.weight"] = f"{ours}.preselector"
        for projection in ("in_proj", "out_proj"):
            if getattr(step.network, projection) is not None:
                names[f"{theirs}.{projection}.weight"] = f"{ours}.network.{projection}.weight"
        for part in ("weight", "bias"):
            names[f"{theirs}.concat.mlp.{part}"] = f"{ours}.network.concat.{part}"
        for block in range(len(step.network.up)):
            for part in ("up", "down"):
                names[f"{theirs}.residual_blocks.{block}.{part}_proj.weight"] = f"{ours}.network.{part}.{block}.weight"
    return names


def _read(source: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source} holds more than tensors and plain values and is refused: {str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{source} is no torch checkpoint or is truncated: {str(error).splitlines()[0]}") from error
    keys = ("model", "parameters", "data_dim")
    missing = [key for key in keys if key not in checkpoint] if isinstance(checkpoint, dict) else list(keys)
    if missing:
        raise ValueError(f"{source} is no published QINCo2 checkpoint: {', '.join(missing)} missing")
    contents: dict[str, Any] = checkpoint
    return contents


def _build(parameters: dict[str, Any], dim: int) -> QINCo:
    qinco1 = bool(parameters.get("qinco1_mode"))
    return QINCo(
        dim,
        num_steps=parameters["M"],
        codebook_size=parameters["K"],
        embed_dim=None if qinco1 or parameters.get("de") in (None, dim) else parameters["de"],
        hidden_dim=parameters["dh"],
        num_blocks=parameters["L"],
        outer_skip=not qinco1,
        num_candidates=parameters.get("A") or 0,
        beam_size=parameters.get("B") or 1,
    )


def _translate(state: dict[str, Tensor], names: dict[str, str], quantizer: QINCo, source: Path) -> dict[str, Tensor]:
    own = quantizer.state_dict()
    unknown = [name for name in state if name not in names and not name.endswith(_IGNORED_SUFFIXES)]
    missing = [name for name in names if name not in state]
    if unknown or missing:
        raise ValueError(f"{source} does not fit its parameters: missing {missing[:3]}, unknown {unknown[:3]}")
    for theirs, ours in names.items():
        if state[theirs].shape != own[ours].shape:
            found, asked = tuple(state[theirs].shape), tuple(own[ours].shape)
            raise ValueError(f"{source}: {theirs} has shape {found}, its parameters ask {asked}")
        if not bool(torch.isfinite(state[theirs]).all()):
            raise ValueError(f"{source}: {theirs} holds NaN or infinity")
    return {ours: state[theirs].float() for theirs, ours in names.items()}
