"""Which pair of code columns deserves the next table: leave-one-out errors of all pairs, from a sample of vectors."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from qinco_lit.search.decoders.pairwise_cells import CellSums, PairTable, squared_norms
from qinco_lit.search.decoders.pairwise_decoder import cells_of

Pair = tuple[int, int]

_ROWS_PER_BLOCK = 16_384


class PairRanking:
    """Ranks pairs by the squared error that a table over them leaves, each vector judged by a table without it.

    All pairs are scored on the residuals' projection to a few random directions, the best ones then exactly. Pairs are
    scored lazily: as the gain of a pair falls while others are fitted, one is scored again only if its last gain could
    still be the largest.

    Args:
        columns: codes of the sample, list codes last.
        residuals: what is left to explain, (rows, dim); updated by `subtract`.
        codebook_size: codewords of every column.
        projected_dim: random directions to score on.
        num_exact: pairs that are scored exactly.
        seed: of the directions.
    """

    def __init__(
        self,
        columns: Int[Tensor, "rows columns"],
        residuals: Float[Tensor, "rows dim"],
        codebook_size: int,
        *,
        projected_dim: int,
        num_exact: int,
        seed: int,
    ) -> None:
        self._columns, self._residuals, self._codebook_size = columns, residuals, codebook_size
        dim, device = residuals.shape[1], residuals.device
        width = min(projected_dim, dim)
        generator = torch.Generator().manual_seed(seed)
        directions = torch.linalg.qr(torch.randn((dim, width), generator=generator))[0]
        self._directions: Tensor | None = directions.to(device) if width < dim else None
        self._num_exact = num_exact
        self._small = CellSums(codebook_size**2, width, device)
        self._full = CellSums(codebook_size**2, dim, device)
        num_columns = columns.shape[1]
        pairs = [(a, b) for a in range(num_columns) for b in range(a + 1, num_columns)]
        self._gains = dict.fromkeys(pairs, float("inf"))

    @property
    def num_rows(self) -> int:
        """Vectors of the sample."""
        return len(self._columns)

    def blocks(self) -> Iterator[tuple[Int[Tensor, "rows columns"], Float[Tensor, "rows dim"]]]:
        """Columns of the sample, and what is left of it."""
        columns = torch.split(self._columns, _ROWS_PER_BLOCK)
        yield from zip(columns, torch.split(self._residuals, _ROWS_PER_BLOCK), strict=True)

    def best(self) -> list[Pair]:
        """Pairs that promise to lower the error, the best first; at most `num_exact`."""
        rows = self._residuals if self._directions is None else self._residuals @ self._directions
        squares = squared_norms(rows)
        before = float(squares.sum())
        fresh: dict[Pair, float] = {}
        for pair in sorted(self._gains, key=self._gains.__getitem__, reverse=True):
            if self._rank(fresh, self._num_exact) >= self._gains[pair]:
                break
            fresh[pair] = self._gains[pair] = before - self._error(pair, rows, squares, self._small)
        finalists = sorted(fresh, key=fresh.__getitem__, reverse=True)[: self._num_exact]
        if self._directions is not None:
            squares = squared_norms(self._residuals)
            before = float(squares.sum())
            fresh = {pair: before - self._error(pair, self._residuals, squares, self._full) for pair in finalists}
        return [pair for pair in sorted(finalists, key=fresh.__getitem__, reverse=True) if fresh[pair] > 0]

    @staticmethod
    def _rank(gains: dict[Pair, float], place: int) -> float:
        """The gain at this place, -inf if there are fewer."""
        return sorted(gains.values(), reverse=True)[place - 1] if len(gains) >= place else float("-inf")

    def _error(
        self, pair: Pair, rows: Float[Tensor, "rows dim"], squares: Float64[Tensor, " rows"], cells: CellSums
    ) -> float:
        cells.clear()
        cells.add(cells_of(self._columns, pair, self._codebook_size), rows, squares)
        return cells.best_shrinkage()[1]

    def drop(self, pair: Pair) -> None:
        """Never propose this pair again."""
        del self._gains[pair]

    def subtract(self, table: PairTable) -> None:
        """Go on with what a table leaves; its pair is not proposed again."""
        cells = cells_of(self._columns, table.pair, self._codebook_size)
        self._residuals = table.left_out_remainder(cells, self._residuals)
        self.drop(table.pair)
