"""A codec as a folder: `config.json` and `weights.safetensors`, no pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from qinco_lit.atomic import replacing_directory
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
            "model": quantizer.config,
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
    return save({name: value.cpu().contiguous() for name, value in quantizer.state_dict().items()})


def check_is_codec(source: Path) -> None:
    """Raise FileNotFoundError unless the files of a codec are in a folder."""
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
        quantizer = build_quantizer(config["dim"], **config["model"])
        expected_hash, cut = config["weights_sha256"], config.get("truncated_from")
        if cut is not None and not (isinstance(cut, dict) and {"weights_sha256", "num_steps"} <= cut.keys()):
            raise ValueError(f"truncated_from={cut} lacks weights_sha256 and num_steps")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source / _CONFIG} is no codec this version reads: {error}") from error
    weights = source / _WEIGHTS
    if hashlib.sha256(weights.read_bytes()).hexdigest() != expected_hash:
        raise ValueError(f"{weights} is damaged or belongs to another codec: its SHA-256 is not that of config.json")
    try:
        quantizer.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{weights} does not fit its config.json: {shorten(str(error).splitlines()[-1], 200)}; restore the folder"
        ) from error
    return quantizer, config
