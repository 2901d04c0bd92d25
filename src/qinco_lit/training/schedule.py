"""Learning rate as a pure function of the fractional epoch, so that a resumed run needs no scheduler state."""

import math


def cosine_factor(epoch: float, *, warmup_epochs: float, max_epochs: float, reach: float | None, floor: float) -> float:
    """Share of the peak learning rate at a fractional epoch (QINCo2: linear ramp, then a quarter cosine, floor 1e-3).

    Args:
        epoch: epochs done, with the fraction of the current one.
        warmup_epochs: length of the linear ramp.
        max_epochs: epochs of the whole training; a fraction where it ends within one.
        reach: share of the quarter wave covered at `max_epochs`, 0 for a constant rate after the ramp; None is the
            paper's cos((epoch - warmup) / max_epochs * pi/2), which stops short of zero by the length of the ramp.
        floor: smallest share returned.
    """
    if epoch < warmup_epochs:
        return max(floor, epoch / warmup_epochs)
    after = epoch - warmup_epochs
    share = after / max_epochs if reach is None else reach * after / max(max_epochs - warmup_epochs, 1e-9)
    return max(floor, math.cos(min(share, 1.0) * math.pi / 2))
