"""The update of k-means: means of the lists, and new places for centroids that got no rows."""

import heapq

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

# Half the distance between the two parts of a list that is split, in standard deviations of its rows per dimension.
_SPLIT = 0.1


class ListSums:
    """Sums over the rows of each list, in float64: counts, sums, and sums of squared norms."""

    def __init__(self, num_lists: int, dim: int) -> None:
        self.counts: Int64[np.ndarray, " lists"] = np.zeros(num_lists, np.int64)
        self.squares: Float64[np.ndarray, " lists"] = np.zeros(num_lists)
        self._sums = torch.zeros((num_lists, dim), dtype=torch.float64)

    def add(self, x: Float32[np.ndarray, "rows dim"], lists: Int64[np.ndarray, " rows"]) -> None:
        """Count rows in."""
        num_lists = len(self.counts)
        self.counts += np.bincount(lists, minlength=num_lists)
        self.squares += np.bincount(lists, np.einsum("ij,ij->i", x, x, dtype=np.float64), num_lists)
        self._sums.index_add_(0, torch.from_numpy(lists), torch.from_numpy(x).double())

    @property
    def num_rows(self) -> int:
        """Rows counted in."""
        return int(self.counts.sum())

    def mean_error(self, centroids: Float32[np.ndarray, "lists dim"]) -> float:
        """Mean squared L2 of the rows to the centroids of their lists: sum |x|^2 - 2 c sum x + n |c|^2, per row."""
        total = float(self.squares.sum())
        for first in range(0, len(centroids), 1 << 14):
            part = slice(first, first + (1 << 14))
            c, sums = centroids[part].astype(np.float64), self._sums[part].numpy()
            total += float(np.einsum("ij,ij->", c, c * self.counts[part, None] - 2 * sums))
        return max(total, 0.0) / self.num_rows

    def imbalance(self) -> float:
        """Rows that a search of one list reads, over what lists of one size would cost: N sum n^2 / (sum n)^2."""
        counts = self.counts.astype(np.float64)
        return float(len(counts) * (counts @ counts) / counts.sum() ** 2)

    def means(
        self, centroids: Float32[np.ndarray, "lists dim"], rng: np.random.Generator
    ) -> tuple[Float32[np.ndarray, "lists dim"], int]:
        """Mean of each list, and how many lists without rows were refilled from the most populated ones.

        A list that cannot be refilled, because no list has two different rows, keeps its centroid.
        """
        new = centroids.copy()
        filled = np.flatnonzero(self.counts)
        for first in range(0, len(filled), 1 << 14):
            part = filled[first : first + (1 << 14)]
            new[part] = self._sums[part].numpy() / self.counts[part, None]
        return new, self._split(new, rng)

    def refill(
        self, centroids: Float32[np.ndarray, "lists dim"], rng: np.random.Generator
    ) -> tuple[Float32[np.ndarray, "lists dim"], int]:
        """The same centroids but for those without rows, and the ones whose lists they share."""
        new = centroids.copy()
        return new, self._split(new, rng)

    def _split(self, centroids: Float32[np.ndarray, "lists dim"], rng: np.random.Generator) -> int:
        """Move each centroid without rows and the one with most rows to two places about the latter's mean, in turn."""
        empty = np.flatnonzero(self.counts == 0)
        if len(empty) == 0:
            return 0
        spreads = self._spreads()
        parents = np.flatnonzero((self.counts > 1) & (spreads > 0))
        heap = [(-float(self.counts[parent]), int(parent)) for parent in parents]
        heapq.heapify(heap)
        dim, whole = centroids.shape[1], self.counts > 0
        for place, child in enumerate(empty):
            if not heap or heap[0][0] > -2:
                return place
            count, parent = heap[0]
            if whole[parent]:  # a plane through the mean has rows on both sides
                centroids[parent] = self._sums[parent].numpy() / self.counts[parent]
                whole[parent] = False
            step = (_SPLIT * spreads[parent] * rng.choice((-1.0, 1.0), dim)).astype(np.float32)
            centroids[child] = centroids[parent] + step
            centroids[parent] -= step
            spreads[child] = spreads[parent]
            heapq.heapreplace(heap, (count / 2, parent))
            heapq.heappush(heap, (count / 2, int(child)))
        return len(empty)

    def _spreads(self) -> Float64[np.ndarray, " lists"]:
        """Standard deviation per dimension of the rows of each list; 0 where they are all the same."""
        counts = np.maximum(self.counts, 1)
        norms = np.empty(len(counts))
        for first in range(0, len(counts), 1 << 14):
            part = self._sums[first : first + (1 << 14)].numpy()
            norms[first : first + (1 << 14)] = np.einsum("ij,ij->i", part, part)
        squares = self.squares / counts
        variance = squares - norms / counts.astype(np.float64) ** 2
        return np.sqrt(np.where(variance > 1e-12 * squares, variance, 0) / self._sums.shape[1])
