"""Training vectors mixed with their neighbours, for data sets so small that networks would learn them by heart."""

import math

import torch
from jaxtyping import Shaped
from torch import Tensor

from qinco_lit.quantizers import Quantizer

_ROWS = 64  # of a batch in which a nearest vector is near
# measured with QINCo2-S at 2,000, 10,000, 30,000 and 100,000 SIFT vectors (benchmarks/RESULTS.md, "Few vectors")
_STEEPNESS = 0.7
_WEIGHTS_PER_VALUE = 0.13  # of QINCo2-S at 100,000 vectors
_GOLDEN = (math.sqrt(5) - 1) / 2


def mixed_share(num_rows: int, mix_below_rows: int, *, weights_per_value: float) -> float:
    """How far towards its neighbour a vector may be moved, 0 to 1: the less of both the data and the networks say so.

    Args:
        num_rows: training vectors.
        mix_below_rows: from so many on it is 0.
        weights_per_value: parameters of the model by numbers in the training vectors: small networks learn little by
            heart.
    """
    if num_rows >= mix_below_rows:
        return 0.0
    excess = min(mix_below_rows / num_rows, weights_per_value / _WEIGHTS_PER_VALUE)
    return min(1.0, max(0.0, _STEEPNESS * math.log10(excess)))


def mixed_share_of(quantizer: Quantizer, num_rows: int | None, mix_below_rows: int) -> float:
    """`mixed_share` for a model and its number of training vectors; None: 0."""
    if num_rows is None:
        return 0.0
    weights = sum(each.numel() for each in quantizer.parameters())
    return mixed_share(num_rows, mix_below_rows, weights_per_value=weights / (num_rows * quantizer.dim))


def mixed(batch: Shaped[Tensor, "batch dim"], share: float, step: int) -> Shaped[Tensor, "batch dim"]:
    """Every vector moved towards the nearest of its batch, by 0 to `share` of the way.

    How far is a sequence that fills the range evenly, which says the same again when a training is resumed.

    Args:
        batch: of any real dtype; what comes back is float32, but the batch itself if it has few rows.
        share: as of `mixed_share`; 0: the batch itself.
        step: optimizer steps done.
    """
    if len(batch) < _ROWS or not share:
        return batch
    x = batch.float()
    with torch.autocast(x.device.type, enabled=False):
        squared = torch.cdist(x, x)
        squared.fill_diagonal_(math.inf)
        nearest = x[squared.argmin(1)]
    numbers = torch.arange(len(x), device=x.device, dtype=torch.float64) + step * len(x)
    moved = (numbers * _GOLDEN).frac().float() * share
    return torch.lerp(x, nearest, moved[:, None])
