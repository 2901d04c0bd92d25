"""The QINCo2 repository's layout: a state dict in a dict, by `torch.save`: names and sizes (docs/checkpoints.md)."""

import logging
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from qinco_lit.published.checkpoint_file import check_sizes, check_stored, fill, stored_sizes
from qinco_lit.quantizers import Quantizer

_log = logging.getLogger(__name__)

CENTROIDS = "steps.0.ivf_centroids.weight"
# running statistics of the published trainer: not needed to encode or decode
STATISTICS = (".xtarget_mean", ".xtarget_var")
# the search that QINCo2 was trained with, for files that have a pre-selector and do not say
_PAPER_NUM_CANDIDATES, _PAPER_BEAM_SIZE = 16, 32


def published_names(quantizer: Quantizer) -> dict[str, str]:
    """The published name of every weight of a model of one part, mapped to that of `codec_folder.tensors`."""
    names = {"data_mean": "data_mean", "data_std": "data_std"}
    if quantizer.num_lists is None:
        names["steps.0.codebook.weight"] = "first_codebook"
    else:
        names[CENTROIDS] = "coarse_centroids"
    for index, step in enumerate(quantizer.parts[0].residual_steps()):
        theirs, ours = f"steps.{index + 1}", f"steps.{index}"
        names[f"{theirs}.codebook.weight"] = f"{ours}.codebook"
        if step.preselector is not None and quantizer.config["num_candidates"]:
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


def build_quantizer(
    checkpoint: Mapping[Any, Any], source: Path, centroids: Float[Tensor, "lists dim"] | None = None
) -> Quantizer:
    """The model of a checkpoint dict.

    Args:
        checkpoint: `model` and `parameters` are needed, `data_dim` is checked where it is, the rest is not looked at.
        source: the file, for errors.
        centroids: coarse centroids in raw space, for an IVF model whose file lacks them.

    Raises:
        ValueError: tensors missing, unknown, not finite or of the wrong shape; sizes that contradict each other.
    """
    state, parameters = _state(checkpoint["model"], source), checkpoint["parameters"]
    if not isinstance(parameters, dict):
        raise ValueError(f"{source}: its parameters are a {type(parameters).__name__}, not a dict")
    parameters = {name: value for name, value in parameters.items() if value is not None}
    if centroids is not None:
        if not parameters.get("ivf_in_use", CENTROIDS in state) or CENTROIDS in state:
            kind = "has coarse centroids of its own" if CENTROIDS in state else "is no IVF model"
            raise ValueError(f"{source} {kind}: leave out the centroids")
        state[CENTROIDS] = _normalized(centroids, state, source)
    found = _sizes(state, source)
    qinco1 = bool(parameters.get("qinco1_mode"))
    declared = {**parameters, "data_dim": checkpoint.get("data_dim")}
    check_sizes(source, {name: value for name, value in declared.items() if not (qinco1 and name == "de")}, found)
    if CENTROIDS not in state and parameters.get("ivf_in_use"):
        raise ValueError(
            f"{source} is an IVF model without its coarse centroids: "
            f"give the file of {parameters.get('ivf_K', 'all')} centroids with --centroids FILE.npy"
        )
    try:
        quantizer = _construct({**parameters, **found}, qinco1, any(".substep." in name for name in state))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: its parameters {parameters} describe no QINCo model ({error!s})") from error
    fill(quantizer, state, published_names(quantizer), source)
    return quantizer


def _state(model: object, source: Path) -> dict[str, Tensor]:
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise ValueError(f"{source} is no published QINCo2 checkpoint: `model` is no state dict of tensors")
    state, sizes = {str(name).removeprefix("module."): value for name, value in model.items()}, stored_sizes(source)
    for name, value in state.items():
        check_stored(source, name, value, sizes)
    return {name: value for name, value in state.items() if not name.endswith(STATISTICS)}


def _normalized(
    centroids: Float[Tensor, "lists dim"], state: Mapping[str, Tensor], source: Path
) -> Float[Tensor, "lists dim"]:
    mean, std = state.get("data_mean"), state.get("data_std")
    if mean is None or std is None or mean.shape != centroids.shape[1:] or std.shape != ():
        dim = "no" if mean is None else mean.shape[-1]
        raise ValueError(f"{source} has {dim} dimensions, the centroids have {centroids.shape[1]}")
    return (centroids - mean.float()) / std.float()


def _sizes(state: Mapping[str, Tensor], source: Path) -> dict[str, int]:
    """The sizes that the tensors show, by their names in `parameters`; a network's only where there is one."""
    codebooks = [name for name in state if re.fullmatch(r"steps\.\d+\.codebook\.weight", name)]
    if not codebooks:
        raise ValueError(f"{source} is no published QINCo2 checkpoint: it has no steps.0.codebook.weight")

    def shape(name: str) -> tuple[int, int]:
        tensor = state.get(name)
        if tensor is None or tensor.ndim != 2:
            raise ValueError(f"{source}: {name} is {'missing' if tensor is None else 'no matrix'}")
        return tensor.shape[0], tensor.shape[1]

    codebook_size, dim = shape(codebooks[0])
    sizes = {"K": codebook_size, "M": len(codebooks), "data_dim": dim}
    if CENTROIDS in state:
        sizes |= {"ivf_in_use": True, "ivf_K": shape(CENTROIDS)[0]}
    network = next((name.split(".")[1] for name in codebooks if f"{name[:-15]}concat.mlp.weight" in state), None)
    if network is not None:
        blocks = [
            name for name in state if re.fullmatch(rf"steps\.{network}\.residual_blocks\.\d+\.up_proj.weight", name)
        ]
        sizes |= {"L": len(blocks), "de": shape(f"steps.{network}.concat.mlp.weight")[0]}
        sizes["dh"] = shape(f"steps.{network}.residual_blocks.0.up_proj.weight")[0]
    return sizes


def _construct(sizes: Mapping[str, Any], qinco1: bool, preselects: bool) -> Quantizer:
    num_candidates, beam_size = sizes.get("A"), sizes.get("B")
    if preselects and (num_candidates is None or beam_size is None):
        num_candidates = min(_PAPER_NUM_CANDIDATES, sizes["K"]) if num_candidates is None else num_candidates
        beam_size = _PAPER_BEAM_SIZE if beam_size is None else beam_size
        _log.info("the file does not say its whole search: A=%d, B=%d are assumed", num_candidates, beam_size)
    lists = {"num_lists": sizes["ivf_K"]} if sizes.get("ivf_in_use") else {}
    config: dict[str, Any] = {
        "num_steps": sizes["M"],
        "codebook_size": sizes["K"],
        "embed_dim": None if qinco1 else sizes.get("de"),
        "hidden_dim": sizes["dh"],
        "num_blocks": sizes["L"],
        "outer_skip": not qinco1,
        "num_candidates": operator.index(num_candidates or 0),
        "beam_size": operator.index(beam_size or 1),
        **lists,
    }
    return Quantizer(sizes["data_dim"], **config)
