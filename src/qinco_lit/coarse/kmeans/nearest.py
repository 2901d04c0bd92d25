"""The nearest centroid of each row, exactly or among the centroids of the nearest groups; on a CPU or a GPU."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, Integer
from torch import Tensor

# Scores that are held at once: on a CPU they should stay in the cache of a core.
_TILE_ROWS, _TILE_LISTS = {"cpu": 512, "cuda": 16_384}, {"cpu": 2_048, "cuda": 16_384}
_TILE_SCORES = 1 << 20


@runtime_checkable
class Nearest(Protocol):
    """List of each row; may be called by several threads at once."""

    def __call__(self, x: Float32[np.ndarray, "rows dim"]) -> Int64[np.ndarray, " rows"]:
        """Number of a centroid for each row."""


def squared_l2(
    x: Float32[np.ndarray, "rows dim"],
    centroids: Float32[np.ndarray, "lists dim"],
    lists: Int64[np.ndarray, " rows"],
) -> Float64[np.ndarray, " rows"]:
    """Squared L2 of each row to the centroid of its list."""
    differences = np.subtract(x, centroids[lists], dtype=np.float64)
    return np.asarray(np.einsum("ij,ij->i", differences, differences))


class ExactNearest:
    """Brute force: half the squared norm of a centroid minus its product with the row, in float32, is smallest.

    Of equal scores the smaller number counts. The rows and centroids should be near the origin, for their rounding.
    """

    def __init__(self, centroids: Float32[np.ndarray, "lists dim"], device: torch.device) -> None:
        self._weights = _weights(centroids, device)
        self._device = device

    def __call__(self, x: Float32[np.ndarray, "rows dim"]) -> Int64[np.ndarray, " rows"]:
        """Number of the nearest centroid for each row."""
        rows = _with_one(x, self._device)
        size = _TILE_ROWS[self._device.type]
        return torch.cat([self._tile(part)[0] for part in torch.split(rows, size)]).cpu().numpy()

    def _tile(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers and scores for rows that have their one."""
        lists, scores = None, None
        step = _TILE_LISTS[self._device.type]
        for first in range(0, len(self._weights), step):
            found, score = _smallest(rows @ self._weights[first : first + step].T)
            if lists is None or scores is None:
                lists, scores = found, score
                continue
            better = score < scores
            lists = torch.where(better, found + first, lists)
            scores = torch.where(better, score, scores)
        assert lists is not None
        assert scores is not None
        return lists, scores


class GroupedNearest:
    """The nearest centroid among those of the `num_probes` groups whose centres are nearest to the row.

    All rows of a block that look into a group are compared with its centroids in one matrix product.

    Args:
        centroids: in any order.
        centres: a point amid each group of centroids.
        members: group of each centroid.
        device: of the products.
    """

    def __init__(
        self,
        centroids: Float32[np.ndarray, "lists dim"],
        centres: Float32[np.ndarray, "groups dim"],
        members: Int64[np.ndarray, " lists"],
        device: torch.device,
    ) -> None:
        filled, members = np.unique(members, return_inverse=True)
        order = np.argsort(members, kind="stable")
        self.num_groups = len(filled)
        self.num_probes = 1
        self._numbers = order.astype(np.int64)
        self._bounds = np.searchsorted(members[order], np.arange(self.num_groups + 1))
        self._weights = _weights(centroids[order], device)
        self._centres = _weights(centres[filled], device)
        self._device = device

    def __call__(self, x: Float32[np.ndarray, "rows dim"]) -> Int64[np.ndarray, " rows"]:
        """Number of a near centroid for each row."""
        rows = _with_one(x, self._device)
        probed = self._probed(rows)
        pairs = np.argsort(probed.ravel(), kind="stable")
        bounds = np.searchsorted(probed.ravel()[pairs], np.arange(self.num_groups + 1))
        order = torch.from_numpy(pairs).to(self._device)
        owners = order // self.num_probes
        found = torch.empty_like(order)
        scores = torch.empty(len(order), device=self._device)
        for group in np.flatnonzero(np.diff(bounds)):
            first, last = (int(bound) for bound in self._bounds[group : group + 2])
            step = min(max(_TILE_ROWS[self._device.type], _TILE_SCORES // (last - first)), len(rows))
            for start in range(int(bounds[group]), int(bounds[group + 1]), step):
                part = slice(start, min(start + step, int(bounds[group + 1])))
                places, scores[part] = _smallest(rows.index_select(0, owners[part]) @ self._weights[first:last].T)
                found[part] = places + first
        best = torch.empty_like(scores).index_copy_(0, order, scores).view(probed.shape).argmin(1, keepdim=True)
        places = torch.empty_like(found).index_copy_(0, order, found).view(probed.shape)
        return np.take(self._numbers, places.gather(1, best)[:, 0].cpu().numpy())

    def _probed(self, rows: Tensor) -> Integer[np.ndarray, "rows probes"]:
        """Groups to look into."""
        parts = [
            (part @ self._centres.T).topk(self.num_probes, dim=1, largest=False, sorted=False).indices
            for part in torch.split(rows, _TILE_ROWS[self._device.type])
        ]
        # sixteen bits where they do: numpy sorts those by radix
        dtype = np.uint16 if self.num_groups <= 1 << 16 else np.int64
        return torch.cat(parts).cpu().numpy().astype(dtype)


def _weights(centroids: Float32[np.ndarray, "lists dim"], device: torch.device) -> Tensor:
    """What rows with a one are multiplied with: minus the centroid, half its squared norm."""
    half_norms = 0.5 * np.einsum("ij,ij->i", centroids, centroids, dtype=np.float64)
    weights = np.concatenate([-centroids, half_norms[:, None].astype(np.float32)], axis=1)
    return torch.from_numpy(weights).to(device)


def _with_one(x: Float32[np.ndarray, "rows dim"], device: torch.device) -> Tensor:
    rows = np.empty((x.shape[0], x.shape[1] + 1), np.float32)
    rows[:, :-1], rows[:, -1] = x, 1
    return torch.from_numpy(rows).to(device)


def _smallest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Place and value of the smallest score of each row."""
    if scores.device.type == "cpu":  # torch's argmin takes six times as long as numpy's
        places = torch.from_numpy(scores.numpy().argmin(axis=1))
        return places, scores.gather(1, places[:, None])[:, 0]
    smallest = scores.min(1)
    return smallest.indices, smallest.values
