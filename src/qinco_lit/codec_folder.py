"""A codec as a folder: `config.json` and `weights.safetensors`, no pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from qinco_lit.atomic import put_back, replacing_directory
from qinco_lit.quantizers import Quantizer, build_quantizer

_CONFIG, _WEIGHTS = "config.json", "weights.safetensors"
_FORMAT = "qinco_lit codec"
_VERSION = 1


def write(target: Path, quantizer: Quantizer, truncated_from: Mapping[str, Any] | None) -> str:
    """Write a quantizer; the folder appears complete or not at all. Returns the SHA-256 of the weights.

    Raises:
        ValueError: the folder exists and is no codec (it is never overwritten).
    """
    if target.exists() and not (target / _CONFIG).is_file() and (target.is_file() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is no codec: name another directory")
    weights = _weights(quantizer)
    sha256 = hashlib.sha256(weights).hexdigest()
    with replacing_directory(target) as temporary:
        (temporary / _WEIGHTS).write_bytes(weights)
        config = {
            "format": _FORMAT,
            "version": _VERSION,
            "dim": quantizer.dim,
            "model": _recorded(quantizer.config),
            "weights_sha256": sha256,
        }
        if truncated_from is not None:
            config["truncated_from"] = dict(truncated_from)
        (temporary / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return sha256


def weights_sha256(quantizer: Quantizer) -> str:
    """SHA-256 that the weights of a quantizer have in a folder, hexadecimal."""
    return hashlib.sha256(_weights(quantizer)).hexdigest()


def _weights(quantizer: Quantizer) -> bytes:
    return save({name: _alone(value) for name, value in tensors(quantizer).items()})


def check_is_codec(source: Path) -> None:
    """Raise FileNotFoundError unless the files of a codec are in a folder."""
    put_back(source)
    for name in (_CONFIG, _WEIGHTS):
        if not (source / name).is_file():
            raise FileNotFoundError(f"no codec in {source}: {name} is missing (train or `qinco import` writes one)")


def read(source: Path) -> tuple[Quantizer, dict[str, Any]]:
    """The quantizer of a folder, and its config.json.

    Raises:
        FileNotFoundError: no codec there.
        ValueError: an unknown format, or weights that do not belong to the config or are damaged.
    """
    check_is_codec(source)
    try:
        config: dict[str, Any] = json.loads((source / _CONFIG).read_text())
        if config["format"] != _FORMAT or config["version"] != _VERSION:
            raise ValueError(f"format {config['format']!r} version {config['version']!r}")
        model = {name: value for name, value in config["model"].items() if name != "search"}
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, though others are read
            quantizer = build_quantizer(config["dim"], **model)
        expected_hash, cut = config["weights_sha256"], config.get("truncated_from")
        if cut is not None and not (isinstance(cut, dict) and {"weights_sha256", "num_steps"} <= cut.keys()):
            raise ValueError(f"truncated_from={cut} lacks weights_sha256 and num_steps")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source / _CONFIG} is no codec this version reads: {error}") from error
    weights = source / _WEIGHTS
    if hashlib.sha256(weights.read_bytes()).hexdigest() != expected_hash:
        raise ValueError(f"{weights} is damaged or belongs to another codec: its SHA-256 is not that of config.json")
    try:
        load_tensors(quantizer, load_file(weights))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{weights} does not fit its config.json: {shorten(str(error).splitlines()[-1], 200)}; restore the folder"
        ) from error
    return quantizer, config


def tensors(quantizer: Quantizer) -> dict[str, Tensor]:
    """A quantizer's weights under the names of the file, which are those of a product's parts or of its only part.

    Each part has its dimensions of mean, centroids and rotated space, and one scale. They are views.
    """
    found = {} if quantizer.rotation is None else {"rotation": quantizer.rotation}
    for number, (part, dims) in enumerate(zip(quantizer.parts, quantizer.part_slices, strict=True)):
        own = {"data_mean": quantizer.data_mean[dims], "data_std": quantizer.data_std[dims.start], **part.state_dict()}
        if quantizer.coarse_centroids is not None:
            own["coarse_centroids"] = quantizer.coarse_centroids[:, dims]
        prefix = f"parts.{number}." if "num_parts" in quantizer.config else ""
        found |= {prefix + name: value for name, value in own.items()}
    return found


@torch.no_grad()
def load_tensors(quantizer: Quantizer, given: Mapping[str, Tensor]) -> None:
    """Give a quantizer weights under the names of `tensors`.

    Raises:
        ValueError: a tensor is missing, unknown, or of another shape.
    """
    own = tensors(quantizer)
    missing, unknown = ([*first.keys() - second.keys()] for first, second in ((own, given), (given, own)))
    if missing or unknown:
        raise ValueError(f"missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}")
    for name, value in given.items():
        if value.shape != own[name].shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, the model needs {tuple(own[name].shape)}")
        own[name].copy_(value)
    for dims in quantizer.part_slices:
        quantizer.data_std[dims] = quantizer.data_std[dims.start].clone()


def _alone(tensor: Tensor) -> Tensor:
    """On the CPU, in memory of its own."""
    tensor = tensor.cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _recorded(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config as files hold it: with the kind of its search, which versions before asked for."""
    kind = "per_hypothesis" if model["candidate_budget"] is None else "budget"
    recorded: dict[str, Any] = {}
    for name, value in model.items():
        recorded |= {"search": kind, name: value} if name == "candidate_budget" else {name: value}
    return recorded
