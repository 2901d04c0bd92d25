"""Tables of the pairwise decoder: shrunk means of residuals per cell (two codes), and which pair deserves the next one.

Vectors are judged by a table that they were left out of.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from qinco_lit.search.decoders.pairwise_decoder import cells_of

Pair = tuple[int, int]

_ROWS_PER_BLOCK = 16_384
# pseudo-counts that are tried: from trusting a cell's only vector by 80 % to hardly trusting a thousand
SHRINKAGES = tuple(2.0 ** (step / 2) for step in range(-4, 25))


def left_out_factor(counts: Float[Tensor, "*shape"], shrinkage: float) -> Float[Tensor, "*shape"]:
    """By how much the error of a vector grows when its cell is fitted without it.

    The cell of n vectors with sum S holds S / (n + s); without the vector r it would hold (S - r) / (n - 1 + s), and
    r - (S - r) / (n - 1 + s) = (r - S / (n + s)) (n + s) / (n + s - 1).
    """
    total = counts + shrinkage
    # a cell without vectors has none to leave out (and a total below 1 would turn the sign)
    return torch.where(counts > 0, total / (total - 1).clamp(min=1e-9), 1.0)


def best_shrinkage(
    counts: Int[Tensor, " cells"], sum_squares: Float[Tensor, " cells"], squares: Float[Tensor, " cells"]
) -> tuple[float, float]:
    """The pseudo-count with the smallest leave-one-out error, and that squared error, summed over the vectors.

    Args:
        counts: vectors in each cell.
        sum_squares: squared norm of the sum of a cell's residuals.
        squares: sum of the squared norms of a cell's residuals.
    """
    # all the error depends on but the count adds up over the cells of that count
    kinds, kind = torch.unique(counts, return_inverse=True)
    of_sums = torch.zeros(len(kinds), dtype=torch.float64, device=counts.device)
    of_sums.index_add_(0, kind, sum_squares.double())
    of_rows = torch.zeros_like(of_sums).index_add_(0, kind, squares.double())
    n = kinds.double()
    errors = []
    for shrinkage in SHRINKAGES:
        total = n + shrinkage
        fitted = of_rows - 2 * of_sums / total + n * of_sums / total.square()
        errors.append(float((left_out_factor(n, shrinkage).square() * fitted).sum()))
    least = min(range(len(errors)), key=errors.__getitem__)
    return SHRINKAGES[least], errors[least]


def squared_norms(residuals: Float[Tensor, "rows dim"]) -> Float64[Tensor, " rows"]:
    """Of each row, to be summed over many of them."""
    return residuals.square().sum(1).double()


@dataclass(frozen=True)
class PairTable:
    """A fitted table: what it adds to the estimate, and what its training vectors are told instead.

    Args:
        pair: the two columns whose codes name the cell.
        values: (codebook_size^2, dim) shrunk means; row `code_a * codebook_size + code_b`.
        factors: `left_out_factor` of each cell.
        shrinkage: the pseudo-count.
    """

    pair: tuple[int, int]
    values: Float[Tensor, "cells dim"]
    factors: Float[Tensor, " cells"]
    shrinkage: float

    def remainder(self, cells: Int[Tensor, " rows"], residuals: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        """What is left of residuals that the table was not fitted to."""
        return residuals - self.values[cells]

    def left_out_remainder(
        self, cells: Int[Tensor, " rows"], residuals: Float[Tensor, "rows dim"]
    ) -> Float[Tensor, "rows dim"]:
        """What is left of residuals that it was fitted to, each by the table that the others alone would give."""
        return self.remainder(cells, residuals) * self.factors[cells][:, None]


class CellSums:
    """Counts, sums and squares of the residuals in each cell, accumulated block by block."""

    def __init__(self, num_cells: int, dim: int, device: torch.device) -> None:
        self.counts = torch.zeros(num_cells, dtype=torch.int64, device=device)
        self.sums = torch.zeros((num_cells, dim), device=device)
        self.squares = torch.zeros(num_cells, dtype=torch.float64, device=device)

    def clear(self) -> None:
        """Forget everything; the memory is kept."""
        for total in (self.counts, self.sums, self.squares):
            total.zero_()

    def add(
        self, cells: Int[Tensor, " rows"], residuals: Float[Tensor, "rows dim"], squares: Float64[Tensor, " rows"]
    ) -> None:
        """Take residuals and their squared norms into account."""
        self.counts += torch.bincount(cells, minlength=len(self.counts))
        self.sums.scatter_add_(0, cells[:, None].expand(-1, self.sums.shape[1]), residuals)
        self.squares.scatter_add_(0, cells, squares)

    def best_shrinkage(self) -> tuple[float, float]:
        """See the function of that name."""
        return best_shrinkage(self.counts, self.sums.square().sum(1), self.squares)

    def estimates(self, cells: Int[Tensor, " rows"], shrinkage: float) -> Float[Tensor, "rows dim"]:
        """What a table would hold in these cells."""
        return self.sums[cells] / (self.counts[cells] + shrinkage)[:, None]

    def table(self, pair: tuple[int, int], shrinkage: float) -> PairTable:
        """The table of all cells; takes the memory of the sums over, nothing can be added afterwards."""
        values = self.sums.div_((self.counts + shrinkage)[:, None])
        return PairTable(pair, values, left_out_factor(self.counts.float(), shrinkage), shrinkage)


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
