"""A codec written in the QINCo2 repository's layout."""

import inspect
import io
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qinco_lit.atomic import write_atomically
from qinco_lit.codec import Codec
from qinco_lit.codec_folder import tensors
from qinco_lit.published.qinco2_layout import STATISTICS, published_names
from qinco_lit.quantizers import QINCo, Quantizer

_log = logging.getLogger(__name__)

# what `parameters` of the layout can say; a budget and fitted pre-selectors are dropped with a word about it
_EXPRESSED = {
    "num_steps", "codebook_size", "embed_dim", "hidden_dim", "num_blocks", "outer_skip", "num_candidates", "beam_size",
    "num_lists", "candidate_budget", "preselector",
}  # fmt: skip


def export_checkpoint(codec: Codec, path: str | Path) -> None:
    """Write a codec as a checkpoint that `import_checkpoint` and the QINCo2 repository's layout have in common.

    `weights_only=True` loads it. Weights and sizes come back exactly. The layout has no budget search: A and B are
    kept, the budget is not, and the log says so. The trainer's running statistics, which a codec does not have, are
    written as mean 0 and std 1; pre-selectors fitted to a model without are dropped. The file appears whole or not at
    all; the same codec gives the same bytes.

    Raises:
        ValueError: a model that the layout cannot express, or a path that is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{target} is a folder: name a file, {target / 'checkpoint.pt'}")
    quantizer = codec.quantizer
    if "num_parts" in quantizer.config:
        raise ValueError(
            f"the published layout holds one model a file and cannot express num_parts={len(quantizer.parts)}: "
            "this codec cannot be exported"
        )
    config = quantizer.config
    _check_expressible(config)
    if config["candidate_budget"] is not None:
        _log.info(
            "the layout has no budget search: candidate_budget=%s is dropped, A=%s and B=%s are kept",
            config["candidate_budget"], config["num_candidates"], config["beam_size"],
        )  # fmt: skip
    if config["preselector"] and not config["num_candidates"]:
        _log.info("the layout has no pre-selectors for num_candidates=0: the fitted ones are dropped")
    buffer = io.BytesIO()
    torch.save(_checkpoint(quantizer), buffer)
    write_atomically(target, buffer.getvalue())


def _check_expressible(config: dict[str, Any]) -> None:
    defaults = {name: option.default for name, option in inspect.signature(QINCo).parameters.items()}
    for name, value in config.items():
        if name not in _EXPRESSED and value != defaults.get(name):
            raise ValueError(f"the published layout cannot express {name}={value}: this codec cannot be exported")
    if not config["outer_skip"] and (config["embed_dim"] is not None or config["num_candidates"] > 0):
        raise ValueError(
            f"the published layout cannot express outer_skip=False with embed_dim={config['embed_dim']} and "
            f"num_candidates={config['num_candidates']}: without outer skip it has QINCo1 only"
        )


def _checkpoint(quantizer: Quantizer) -> dict[str, Any]:
    config, own = quantizer.config, tensors(quantizer)
    parameters = {
        "K": config["codebook_size"],
        "M": config["num_steps"],
        "dh": config["hidden_dim"],
        "L": config["num_blocks"],
        "A": config["num_candidates"],
        "B": config["beam_size"],
    }
    # None and the vectors' own dimension are the same model; the layout has only the number
    parameters |= {"de": config["embed_dim"] or quantizer.dim} if config["outer_skip"] else {"qinco1_mode": True}
    if quantizer.num_lists is not None:
        parameters |= {"ivf_in_use": True, "ivf_K": config["num_lists"]}
    names = published_names(quantizer)
    state: dict[str, Tensor] = {theirs: own[ours].float().cpu().clone() for theirs, ours in names.items()}
    for name in names:
        step = name.removesuffix(".codebook.weight")
        if step != name and not step.endswith(".substep"):
            mean, std = (step + suffix for suffix in STATISTICS)
            state |= {mean: torch.zeros(quantizer.dim), std: torch.ones(quantizer.dim)}
    return {
        "epoch": 0,
        "model": state,
        "optimizer": None,
        "scheduler": None,
        "logger": None,
        "parameters": parameters,
        "data_dim": quantizer.dim,
    }
