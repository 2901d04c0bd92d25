"""Which quantizer a configuration describes, and shorter ones out of a trained one."""

from typing import Any

import torch

from qinco_lit.quantizers.beam import checked_num_steps
from qinco_lit.quantizers.product import ProductQINCo
from qinco_lit.quantizers.qinco import QINCo

Quantizer = QINCo | ProductQINCo


def build_quantizer(dim: int, **config: Any) -> Quantizer:
    """A `ProductQINCo` where the configuration has `num_parts`, else a `QINCo`; untrained.

    Raises:
        ValueError: sizes that are out of range or do not add up.
        TypeError: an argument that the class does not have.
    """
    return ProductQINCo(dim, **config) if "num_parts" in config else QINCo(dim, **config)


def truncated(quantizer: Quantizer, num_steps: int) -> Quantizer:
    """The quantizer of the first `num_steps` columns of codes; it shares the weights.

    Raises:
        ValueError: outside of 1 to the model's steps, or a part of a product would have no codes.
    """
    wanted = checked_num_steps(num_steps, quantizer.num_steps)
    config = {**quantizer.config, "num_steps": wanted}
    if isinstance(quantizer, ProductQINCo):
        needed = 1 + max(columns[0] for columns in quantizer.part_columns)
        if wanted < needed:
            raise ValueError(f"num_steps={wanted}: a part would have no codes, give {needed} to {quantizer.num_steps}")
        config["part_steps"] = [sum(column < wanted for column in columns) for columns in quantizer.part_columns]
    with torch.device("meta"):
        shorter = build_quantizer(quantizer.dim, **config)
    own = quantizer.state_dict()
    shorter.load_state_dict({name: own[name] for name in shorter.state_dict()}, assign=True)
    return shorter.train(quantizer.training)
