"""Training vectors mixed with their neighbours, for data sets so small that networks would learn them by heart."""

import math

import torch
from jaxtyping import Shaped
from torch import Tensor

_ROWS = 64  # of a batch in which a nearest vector is near
_STEEPNESS = 0.7  # measured at 2,000, 10,000 and 30,000 vectors (benchmarks/RESULTS.md, "Few vectors")
_GOLDEN = (math.sqrt(5) - 1) / 2


def mixed_share(num_rows: int, mix_below_rows: int) -> float:
    """How far towards its neighbour a vector of so many may be moved: 0 from `mix_below_rows` on, 1 at most."""
    if num_rows >= mix_below_rows:
        return 0.0
    return min(1.0, _STEEPNESS * math.log10(mix_below_rows / num_rows))


def mixed(batch: Shaped[Tensor, "batch dim"], share: float, step: int) -> Shaped[Tensor, "batch dim"]:
    """Every vector moved towards the nearest of its batch, by 0 to `share` of the way.

    How far is a sequence that fills the range evenly, which says the same again when a training is resumed.

    Args:
        batch: of any real dtype; what comes back is float32, but the batch itself if it has few rows.
        share: as of `mixed_share`; 0: the batch itself.
        step: batches trained on before.
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
