"""Small random models whose weights are large enough for the network to matter."""

import torch

from qinco_lit.codec_folder import load_tensors, tensors
from qinco_lit.quantizers import QINCo, Quantizer, build_quantizer


def random_quantizer(dim: int, *, seed: int = 0, **config: object) -> Quantizer:
    """Of one part; the centroids of lists are zeros."""
    quantizer, generator = build_quantizer(dim, **config), torch.Generator().manual_seed(seed)
    randomize(quantizer.parts[0], generator)
    quantizer.data_mean.copy_(torch.randn(dim, generator=generator))
    quantizer.data_std.fill_(2.5)
    return quantizer


@torch.no_grad()
def randomize(part: QINCo, generator: torch.Generator) -> None:
    for name, parameter in part.named_parameters():
        scale = 1.0 if "codebook" in name else parameter.shape[-1] ** -0.5
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    for step in part.residual_steps():
        if step.preselector is not None:  # a pre-selector that says something about its codebook
            step.preselector.copy_(step.codebook + 0.1 * step.preselector)


def alone(quantizer: Quantizer, number: int) -> Quantizer:
    """A part as a quantizer of its own, with copies of the weights."""
    part, prefix = quantizer.parts[number], f"parts.{number}."
    copy = build_quantizer(part.dim, **part.config, num_lists=quantizer.num_lists)
    own = {name: value for name, value in tensors(quantizer).items() if name.startswith(prefix)}
    load_tensors(copy, {name.removeprefix(prefix): value for name, value in own.items()})
    return copy
