"""Errors of validation vectors, chunks side by side on a CPU, and what they are reported as."""

from itertools import chain

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from qinco_lit.metrics import entropy_bits
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


def named_figures(
    quantizer: Quantizer, mse: Float64[Tensor, " reconstructions"], usage: Int[Tensor, "steps codebook"]
) -> dict[str, float]:
    """What a validation reports: MSE (raw space, sum over dimensions) of every prefix, and entropy of the codes.

    That of an IVF model's centroids alone is `val/mse_coarse`; list ids have no part in the entropy.

    Args:
        quantizer: of which they are.
        mse: means of `squared_errors`.
        usage: how often each codeword was chosen.
    """
    entropy = entropy_bits(usage.numpy())
    figures = {} if quantizer.num_lists is None else {"val/mse_coarse": float(mse[0])}
    steps = enumerate(mse[-quantizer.num_steps :], start=1)
    figures |= {f"val/mse_step_{step}": float(value) for step, value in steps}
    figures |= {f"val/entropy_bits_step_{step}": float(value) for step, value in enumerate(entropy, start=1)}
    return figures | {"val/mse": float(mse[-1]), "val/entropy_bits": float(entropy.mean())}
