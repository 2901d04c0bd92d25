"""Small random models whose weights are large enough for the network to matter."""

import torch

from qinco_lit.quantizers import QINCo


def random_quantizer(dim: int, *, seed: int = 0, **config: object) -> QINCo:
    quantizer = QINCo(dim, **config)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in quantizer.named_parameters():
            scale = 1.0 if "codebook" in name else parameter.shape[-1] ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        for step in quantizer.residual_steps():
            if step.preselector is not None:  # a pre-selector that says something about its codebook
                step.preselector.copy_(step.codebook + 0.1 * step.preselector)
        quantizer.data_mean.copy_(torch.randn(dim, generator=generator))
        quantizer.data_std.fill_(2.5)
    return quantizer
