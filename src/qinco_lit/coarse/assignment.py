"""The list of each vector of an IVF model: through an index where brute force would take most of the time."""

from hashlib import sha256
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from qinco_lit.arrays import AssignLists
from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.kmeans import nearest_codeword

_SAMPLE_ROWS = 2_048  # what the index measures its error on; with fewer it would go on with the rows to come


def list_assigner(centroids: Float32[np.ndarray, "lists dim"], rows: Any, device: torch.device) -> AssignLists | None:
    """Assignment of raw rows to lists through an index; None where brute force on the device is the better way.

    That is on a GPU, and for few lists. How hard the index searches is set by evenly spaced rows of the file, so that
    it gives the same lists in every process, and after an interruption. A row that is not finite gets some list.

    Args:
        centroids: in raw space.
        rows: (n, dim) of the file whose vectors are assigned.
        device: of the model.
    """
    from qinco_lit.coarse.list_assigner import EXACT_LISTS, ListAssigner

    if device.type != "cpu" or len(centroids) <= EXACT_LISTS:
        return None
    assigner = ListAssigner(centroids)

    def assign(batch: Tensor) -> Tensor:
        finite = torch.nan_to_num(batch.float(), nan=0.0, posinf=0.0, neginf=0.0)
        return torch.from_numpy(assigner(finite.numpy())).long()

    assign(torch.from_numpy(rows[np.arange(_SAMPLE_ROWS) * len(rows) // _SAMPLE_ROWS]))
    return assign


class FrozenLists:
    """The lists of an IVF model in training: its centroids stay what they are, the same in every process.

    Args:
        centroids: in raw space.
        assign: list ids of raw rows (`list_assigner`); None: by brute force.
        device: of the training.

    Attributes:
        centroids: as given.
        sha256: of them, which checkpoints keep in their place.
        assign: as given.
    """

    def __init__(
        self, centroids: Float32[np.ndarray, "lists dim"], assign: AssignLists | None, device: torch.device
    ) -> None:
        self.centroids, self.assign, self._device = centroids, assign, device
        self.sha256 = sha256(centroids.tobytes()).hexdigest()

    @torch.no_grad()
    def place(self, quantizer: Quantizer) -> None:
        """Give a model its centroids, when its normalisation is known."""
        quantizer.set_centroids(torch.from_numpy(self.centroids))

    def residuals(self, x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        """What the centroids leave of raw rows."""
        centroids = torch.from_numpy(self.centroids)
        if self.assign is not None:
            near = self.assign(x)
        else:
            middle = centroids.mean(0)  # a matrix product compares vectors far from the origin badly
            near = nearest_codeword((x - middle).to(self._device), (centroids - middle).to(self._device)).cpu()
        return x - centroids[near]
