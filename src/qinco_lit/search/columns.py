"""Codes as the columns of a scan: each has a look-up table, and short codes share one, several to a byte.

faiss scans codes of a byte three times as fast as shorter ones (26 ns a vector of 8 bytes, 80 ns of 16 codes of 4
bits). Two codes of 4 bits are a byte, and the sum of their codewords depends on it alone: its table has 256 sums.
"""

from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Integer, UInt8

_faiss: Any = faiss


class CodeColumns:
    """How codes of a vector lie in a scan.

    Args:
        codebooks: of the additive decoder.

    Attributes:
        bits: of a column.
        number: of columns.
    """

    def __init__(self, codebooks: Float32[np.ndarray, "steps codebook dim"]) -> None:
        self._codebooks = codebooks
        self.num_steps, codebook_size, _ = codebooks.shape
        self._code_bits = (codebook_size - 1).bit_length()
        self._per_column = 8 // self._code_bits if self._code_bits in (1, 2, 4) else 1
        self.bits = self._code_bits * self._per_column
        self.number = -(-self.num_steps // self._per_column)

    def tables(self) -> Float32[np.ndarray, "columns values dim"]:
        """What each value of each column adds to the estimate; values beyond the codebook add nothing."""
        _, codebook_size, dim = self._codebooks.shape
        shape = (self.number, self._per_column, 1 << self._code_bits, dim)
        filled = np.zeros(shape, np.float32)
        filled.reshape(-1, *shape[2:])[: self.num_steps, :codebook_size] = self._codebooks
        values = np.arange(1 << self.bits)
        tables = np.zeros((self.number, len(values), dim), np.float32)
        for place in range(self._per_column):
            tables += filled[:, place, values >> self._code_bits * place & (1 << self._code_bits) - 1]
        return tables

    def of_codes(self, codes: Integer[np.ndarray, "n steps"]) -> Integer[np.ndarray, "n columns"]:
        """Columns of codes, int64."""
        digits = np.zeros((len(codes), self.number * self._per_column), np.int64)
        digits[:, : self.num_steps] = codes
        places = np.arange(self._per_column)
        shifted = digits.reshape(len(codes), self.number, self._per_column) << self._code_bits * places
        return np.asarray(shifted.sum(2))

    def packed(self, columns: Integer[np.ndarray, "n all_columns"]) -> UInt8[np.ndarray, "n bytes"]:
        """The bytes of columns, of codes or of anything else in as many bits."""
        if self.bits == 8:
            return columns.astype(np.uint8)
        return np.asarray(_faiss.pack_bitstrings(np.ascontiguousarray(columns, dtype=np.int32), self.bits))

    def codes(self, packed: UInt8[np.ndarray, "n bytes"]) -> Integer[np.ndarray, "n steps"]:
        """Codes of bytes that begin with their columns."""
        return unpacked_codes(packed, self.num_steps, self._code_bits)


def unpacked_codes(packed: UInt8[np.ndarray, "n bytes"], num_steps: int, bits: int) -> Integer[np.ndarray, "n steps"]:
    """Codes of so many bits that bytes begin with: uint8, or uint16 for more than 8 bits."""
    if bits == 8:
        return packed[:, :num_steps].copy()
    used = np.ascontiguousarray(packed[:, : -(-num_steps * bits // 8)])
    codes = _faiss.unpack_bitstrings(used, num_steps, bits)
    return np.asarray(codes, dtype=np.uint8 if bits < 8 else np.uint16)
