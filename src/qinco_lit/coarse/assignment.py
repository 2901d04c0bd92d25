"""The list of each vector of an IVF model: through an index where brute force would take most of the time."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from qinco_lit.arrays import AssignLists

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
