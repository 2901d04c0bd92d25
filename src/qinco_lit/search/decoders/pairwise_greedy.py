"""Tables of the pairwise decoder, one after the other, as long as vectors that were not fitted to gain."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from qinco_lit.arrays import as_float32
from qinco_lit.progress import Progress
from qinco_lit.search.decoders.additive import code_columns, sum_of_codewords
from qinco_lit.search.decoders.pairwise_decoder import cells_of, list_columns
from qinco_lit.search.decoders.pairwise_tables import CellSums, Pair, PairRanking, PairTable, squared_norms

Blocks = Iterator[tuple[Int[Tensor, "rows columns"], Float[Tensor, "rows dim"]]]

log = logging.getLogger(__name__)

_ROWS_PER_BLOCK = 16_384


@runtime_checkable
class CodedVectors(Protocol):
    """Codes with what they describe; `blocks` starts anew at every call and always yields the same rows."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield codes (rows, num_steps), list ids (rows,) and targets x minus centroid (rows, dim), all numpy."""


@dataclass(frozen=True)
class AdditiveResiduals:
    """Code columns, a vector's own and its list's, and what an additive decoder leaves, in blocks of bounded size.

    Args:
        vectors: to go through.
        codebooks: of the additive decoder, on the device to compute on.
        list_codes: codes of the lists.
    """

    vectors: CodedVectors
    codebooks: Float[Tensor, "steps codebook dim"]
    list_codes: Integer[np.ndarray, "lists list_columns"]

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[tuple[Int[Tensor, "rows columns"], Float[Tensor, "rows dim"]]]:
        """Yield columns and residuals in order.

        Raises:
            ValueError: codes or list ids out of range; NaN or infinity in a target, named by row.
        """
        num_steps, codebook_size, _ = self.codebooks.shape
        device, first = self.codebooks.device, 0
        for codes, list_ids, targets in self.vectors.blocks():
            for start in range(0, len(codes), _ROWS_PER_BLOCK):
                rows = slice(start, start + _ROWS_PER_BLOCK)
                own = code_columns(codes[rows], num_steps, codebook_size, device)
                columns = torch.cat([own, list_columns(self.list_codes, list_ids[rows]).to(device)], dim=1)
                block = as_float32(targets[rows], device, first)
                yield columns, block - sum_of_codewords(self.codebooks, own)
                first += len(block)

    def head(self, num_rows: int) -> tuple[Int[Tensor, "rows columns"], Float[Tensor, "rows dim"]]:
        """The first rows, in memory."""
        parts, missing = [], num_rows
        for columns, residuals in self.blocks():
            parts.append((columns[:missing], residuals[:missing]))
            missing -= len(columns)
            if missing <= 0:
                break
        return torch.cat([columns for columns, _ in parts]), torch.cat([residuals for _, residuals in parts])


@dataclass(frozen=True)
class TableReport:
    """A table: its columns, pseudo-count and the MSE with it and all before; raw space, SUM over dims.

    The training MSE is that of each vector left out of the tables that decode it.
    """

    pair: Pair
    shrinkage: float
    training_mse: float
    validation_mse: float
    seconds: float


@dataclass(frozen=True)
class LearningPoint:
    """Validation MSE with the first table alone, fitted to so many of the first training vectors."""

    num_vectors: int
    validation_mse: float


class GreedyTables:
    """Fits tables on top of an additive decoder.

    Args:
        training: residuals to fit to, streamed once per table unless all of them are in the ranking's sample.
        validation: columns and residuals that decide which tables stay.
        ranking: proposes pairs.
        min_gain: relative gain of validation MSE that a table has to bring.
        progress: is told the tables.

    Attributes:
        tables: so far; `residuals`: what they leave of the validation vectors; `learning_curve`: of the first table.
    """

    def __init__(
        self,
        training: AdditiveResiduals,
        validation: tuple[Int[Tensor, "rows columns"], Float[Tensor, "rows dim"]],
        ranking: PairRanking,
        *,
        min_gain: float,
        progress: Progress | None = None,
    ) -> None:
        self._training, self._ranking, self._min_gain = training, ranking, min_gain
        self._columns, self.residuals = validation
        self._codebook_size = training.codebooks.shape[1]
        self._progress = progress or Progress(show=False)
        self.tables: list[PairTable] = []
        self.reports: list[TableReport] = []
        self.learning_curve: list[LearningPoint] = []

    def fit(self, num_tables: int) -> str:
        """Add tables, at most so many in all; returns why it stopped."""
        self._progress.start("pairwise decoder", num_tables, done=len(self.tables), unit="tables")
        while len(self.tables) < num_tables:
            before = mean_squared_error(self.residuals)
            pairs = self._ranking.best()
            if not any(self._try(pair, before) for pair in pairs):
                tried = f"{len(pairs)} more pairs lowered" if pairs else "no further pair promised to lower"
                none = "none of the " if pairs else ""
                return f"{none}{tried} the validation MSE, {before:.6g}, by {self._min_gain:g} of it"
        return f"num_tables={num_tables} reached"

    def _try(self, pair: Pair, before: float) -> bool:
        """Fit the table of a pair, and keep it if it gains enough."""
        began = time.perf_counter()
        table, training_mse = self._fitted(pair)
        remainder = table.remainder(self._cells(self._columns, pair), self.residuals)
        after = mean_squared_error(remainder)
        name = f"pair {pair}, pseudo-count {table.shrinkage:.3g}: validation MSE {before:.6g} -> {after:.6g}"
        if after >= (1 - self._min_gain) * before:
            self._ranking.drop(pair)
            log.info("pairwise table dropped, %s", name)
            return False
        self._ranking.subtract(table)
        self.residuals = remainder
        self.tables.append(table)
        self._progress.advance()
        seconds = time.perf_counter() - began
        self.reports.append(TableReport(pair, table.shrinkage, training_mse, after, seconds))
        log.info("pairwise table %d, %s (%.1f s)", len(self.tables), name, seconds)
        return True

    def _fitted(self, pair: Pair) -> tuple[PairTable, float]:
        """The table of a pair from all training vectors, and their MSE, each left out of it."""
        num_cells, dim = self._codebook_size**2, self.residuals.shape[1]
        sums = CellSums(num_cells, dim, self.residuals.device)
        is_first, seen, total = not self.learning_curve, 0, len(self._training)
        marks = {total // 4, total // 2, total} - {0} if is_first else set()
        for columns, residuals in _cut(self._remainders(), marks):
            sums.add(self._cells(columns, pair), residuals, squared_norms(residuals))
            seen += len(columns)
            if seen in marks:
                self._learned(seen, sums, pair)
        shrinkage, squared_error = sums.best_shrinkage()
        return sums.table(pair, shrinkage), squared_error / seen

    def _remainders(self) -> Blocks:
        """What the tables so far leave of the training vectors, each left out of them."""
        if len(self._training) <= self._ranking.num_rows:
            yield from self._ranking.blocks()
            return
        for columns, residuals in self._training.blocks():
            for table in self.tables:
                residuals = table.left_out_remainder(self._cells(columns, table.pair), residuals)
            yield columns, residuals

    def _learned(self, num_vectors: int, sums: CellSums, pair: Pair) -> None:
        shrinkage, _ = sums.best_shrinkage()
        estimates = sums.estimates(self._cells(self._columns, pair), shrinkage)
        self.learning_curve.append(LearningPoint(num_vectors, mean_squared_error(self.residuals - estimates)))

    def _cells(self, columns: Int[Tensor, "rows columns"], pair: Pair) -> Int[Tensor, " rows"]:
        return cells_of(columns, pair, self._codebook_size)

    def report(self) -> dict[str, Any]:
        """Tables and learning curve as plain values."""
        return {
            "tables": [asdict(table) for table in self.reports],
            "learning_curve": [asdict(point) for point in self.learning_curve],
        }


def mean_squared_error(residuals: Float[Tensor, "rows dim"]) -> float:
    """Mean over vectors of the SUM over dims."""
    return float(squared_norms(residuals).mean())


def _cut(blocks: Blocks, marks: set[int]) -> Blocks:
    """The same rows, in blocks that also end where so many rows are complete."""
    seen = 0
    for columns, residuals in blocks:
        ends = sorted({mark - seen for mark in marks if seen < mark < seen + len(columns)} | {len(columns)})
        for start, end in pairwise([0, *ends]):
            yield columns[start:end], residuals[start:end]
        seen += len(columns)
