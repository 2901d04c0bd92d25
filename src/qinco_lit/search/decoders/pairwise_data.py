"""What the pairwise decoder is fitted to: codes, the vectors they stand for, what an additive decoder leaves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from qinco_lit.arrays import as_float32
from qinco_lit.search.decoders.additive import code_columns, sum_of_codewords
from qinco_lit.search.decoders.pairwise_decoder import list_columns

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
