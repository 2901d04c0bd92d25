"""Errors of validation vectors: chunks side by side on a CPU."""

from itertools import chain

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.chunks import TRAINED_ROWS, chunks
from qinco_lit.quantizers.workers import for_each


@torch.no_grad()
def squared_errors(
    quantizer: Quantizer,
    x: Float[Tensor, "batch dim"],
    codes: Int[Tensor, "batch codes"],
    list_ids: Int[Tensor, " batch"] | None,
) -> Float64[Tensor, " reconstructions"]:
    """`raw_squared_error` of normalised vectors: of their centroids, of a model with lists, and after every code."""
    ranges = list(chunks(len(x), TRAINED_ROWS)) if x.device.type == "cpu" else [(0, len(x))]
    errors: dict[int, Tensor] = {}

    def work(start: int, stop: int) -> None:
        own = None if list_ids is None else list_ids[start:stop]
        coarse = [] if own is None else [quantizer.centroids_of(own)]
        found = chain(coarse, quantizer.reconstructions(codes[start:stop], own))
        errors[start] = torch.stack([quantizer.raw_squared_error(x_hat, x[start:stop]) for x_hat in found])

    for_each(work, ranges, x.device)
    return torch.stack([errors[start] for start, _ in ranges]).sum(0)
