"""What training minimises."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class StepLosses(NamedTuple):
    """Mean over batch and dimensions of the squared error, in normalised space (algorithm.md, *Training*).

    `mse` is the raw-space error of the last step, summed over dimensions, in float64 and without gradient.
    """

    reconstruction: Float[Tensor, " steps"]
    preselector: Float[Tensor, " preselectors"]
    mse: Float[Tensor, ""]

    @classmethod
    def of(cls, reconstruction: list[Tensor], preselector: list[Tensor], raw_scale: Tensor) -> "StepLosses":
        """From the means of each step; `raw_scale` turns one into a raw-space sum over dimensions."""
        steps = torch.stack(reconstruction)
        preselectors = torch.stack(preselector) if preselector else steps.new_zeros(0)
        return cls(steps, preselectors, steps[-1].detach().double() * raw_scale)
