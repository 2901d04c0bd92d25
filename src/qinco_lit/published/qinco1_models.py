"""Quantizers of the QINCo1 release's models (docs/checkpoints.md, *QINCo1 release*)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qinco_lit.published.checkpoint_file import check_sizes, fill
from qinco_lit.published.qinco1_release import OPQ_MATRIX, PART_PREFIX, Qinco1Model
from qinco_lit.quantizers import QINCo, Quantizer, build_quantizer

_ORTHOGONAL = 5e-3  # a rotation in float32 is within 1e-5 or so, one rounded to half precision within 1e-3


def build_qinco1(model: Qinco1Model, source: Path) -> Quantizer:
    """The quantizer of a model of the release: vectors divided by `db_scale`, all K codewords tried, one hypothesis.

    Raises:
        ValueError: tensors that do not fit the sizes, each other, or a model of this family.
    """
    return _product(model, source) if model.family == "PQ_QINCo" else _single(model, source)


def _single(model: Qinco1Model, source: Path) -> Quantizer:
    found = _sizes(model, source)
    options = {"num_steps": found["M"], "num_lists": found.get("K_IVF")}
    quantizer = _construct(found["d"], options, model, found, source)
    state, names = _named(quantizer, 0, model, scale=_scale(model, source))
    fill(quantizer, state, names, source)
    return quantizer


def _product(model: Qinco1Model, source: Path) -> Quantizer:
    """Parts side by side; `db_scale` divides the vectors before the rotation, each part's own one its sub-vectors."""
    found = _sizes_of_parts(model, source)
    part_dims, part_steps = ([sizes[name] for sizes in found] for name in ("d", "M"))
    check_sizes(source, model.sizes, {"d": sum(part_dims)})
    rotation = _rotation(model, source, part_dims)
    options = {
        "num_parts": len(found),
        "part_dims": part_dims,
        "num_steps": sum(part_steps),
        "part_steps": part_steps,
        "opq": rotation is not None,
        "order": "parts",
    }
    shown = next((index for index, sizes in enumerate(found) if "h" in sizes), 0)  # a part of one step has no network
    product = _construct(sum(part_dims), options, model.parts[shown], found[shown], source)
    owned = (*(f"{PART_PREFIX}{index}." for index in range(len(found))), OPQ_MATRIX)
    unknown = [name for name in model.state if not name.startswith(owned)]
    if unknown:
        raise ValueError(f"{source} does not fit its parameters: unknown {unknown[:3]}")
    state, names = ({}, {}) if rotation is None else ({OPQ_MATRIX: rotation}, {OPQ_MATRIX: "rotation"})
    for index, part in enumerate(model.parts):
        scale = _scale(part, source) * (_scale(model, source) if "db_scale" in model.sizes else 1)
        own, own_names = _named(product, index, part, scale=scale)
        state |= {f"{PART_PREFIX}{index}.{name}": tensor for name, tensor in own.items()}
        names |= {f"{PART_PREFIX}{index}.{theirs}": f"parts.{index}.{ours}" for theirs, ours in own_names.items()}
    fill(product, state, names, source)
    return product


def _sizes_of_parts(model: Qinco1Model, source: Path) -> list[dict[str, int]]:
    families = [part.family for part in model.parts]
    if not families or set(families) not in ({"QINCo"}, {"QINCoLR"}):
        raise ValueError(
            f"{source}: a PQ_QINCo has parts that are all QINCo or all QINCoLR, this one {families or 'none'}"
        )
    found = [_sizes(part, source, f"{PART_PREFIX}{index}") for index, part in enumerate(model.parts)]
    for name in ("K", "L", "h"):
        sizes = [own[name] for own in found if name in own]
        if len(set(sizes)) > 1:
            raise ValueError(f"{source}: its parts have {name}={sizes}: parts of one size are read")
    return found


def _rotation(model: Qinco1Model, source: Path, part_dims: list[int]) -> Float[Tensor, "dim dim"] | None:
    """The OPQ matrix R, None without: sub-vectors are those of x R^T, as our quantizer has it."""
    matrix, dim = model.state.get(OPQ_MATRIX), sum(part_dims)
    if matrix is None:
        return None
    if matrix.shape != (dim, dim):
        said = f"parts of {part_dims} dimensions need {(dim, dim)}"
        raise ValueError(f"{source}: {OPQ_MATRIX} has shape {tuple(matrix.shape)}, {said}")
    error = float((matrix @ matrix.T - torch.eye(dim)).abs().max())
    if error > _ORTHOGONAL:
        raise ValueError(f"{source}: {OPQ_MATRIX} is no rotation: R R^T differs from the identity by up to {error:.2g}")
    return matrix


def _sizes(model: Qinco1Model, source: Path, part: str | None = None) -> dict[str, int]:
    """The sizes that the tensors show, by the release's names; ValueError where the model's attributes differ."""
    state, ivf = model.state, model.family == "IVFQINCo"
    first = 0 if ivf else 1  # IVF models, whose `codebook0` holds the coarse centroids, number their steps from 0
    label = str(source) if part is None else f"{source}: {part}"
    found = {"M": first + sum(name.endswith(".codebook.weight") for name in state)}
    for name in ("codebook0.weight", "step0.codebook.weight") if ivf else ("codebook0.weight",):
        if name not in state or state[name].ndim != 2:
            raise ValueError(f"{label}: {name} is {'no matrix' if name in state else 'missing'}")
        rows, found["d"] = state[name].shape
        found["K_IVF" if ivf and name == "codebook0.weight" else "K"] = rows
    hidden = state.get(f"step{first}.residual_block0.0.weight")
    if hidden is not None and hidden.ndim == 2:
        blocks = [name for name in state if re.fullmatch(rf"step{first}\.residual_block\d+\.0\.weight", name)]
        found |= {"L": len(blocks), "h": hidden.shape[0]}
    check_sizes(label, model.sizes, found)
    return found


def _construct(
    dim: int, options: dict[str, Any], model: Qinco1Model, found: Mapping[str, int], source: Path
) -> Quantizer:
    """The quantizer, still empty, whose networks are those of `model`."""
    try:
        # without a network, in a model of one step, what the file says
        hidden_dim = found["h"] if "h" in found else int(model.sizes.get("h", 1))
        num_blocks = found["L"] if "L" in found else int(model.sizes.get("L", 1))
        return build_quantizer(
            dim,
            **options,
            codebook_size=found["K"],
            embed_dim=None,
            hidden_dim=hidden_dim,
            num_blocks=num_blocks,
            concat_rank=hidden_dim if model.family == "QINCoLR" else None,
            outer_skip=False,
            num_candidates=0,
            beam_size=1,
        )
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{source}: its attributes {model.sizes} describe no QINCo model ({error!s})") from error


def _scale(model: Qinco1Model, source: Path) -> float:
    if "db_scale" not in model.sizes:
        raise ValueError(f"{source}: its attributes {model.sizes} describe no QINCo model (no db_scale)")
    return float(model.sizes["db_scale"])


def _named(
    quantizer: Quantizer, index: int, model: Qinco1Model, *, scale: float
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a part, by the release's names, and these mapped to those of a codec's only part."""
    part = quantizer.parts[index]
    state = {**model.state, "data_mean": torch.zeros(part.dim), "db_scale": torch.tensor(scale)}
    return state, {"data_mean": "data_mean", "db_scale": "data_std", **_names(part)}


def _names(quantizer: QINCo) -> dict[str, str]:
    """The release's name of every weight, mapped to ours."""
    ivf = quantizer.has_start
    names = {"codebook0.weight": "coarse_centroids" if ivf else "first_codebook"}
    for index, step in enumerate(quantizer.residual_steps()):
        theirs, ours = f"step{index if ivf else index + 1}", f"steps.{index}"
        names[f"{theirs}.codebook.weight"] = f"{ours}.codebook"
        if step.network.concat is None:
            names[f"{theirs}.MLPconcat.0.weight"] = f"{ours}.network.concat_in.weight"
            names[f"{theirs}.MLPconcat.1.weight"] = f"{ours}.network.concat_out.weight"
        else:
            for part in ("weight", "bias"):
                names[f"{theirs}.MLPconcat.{part}"] = f"{ours}.network.concat.{part}"
        for block in range(len(step.network.up)):
            for number, part in ((0, "up"), (2, "down")):
                names[f"{theirs}.residual_block{block}.{number}.weight"] = f"{ours}.network.{part}.{block}.weight"
    return names
