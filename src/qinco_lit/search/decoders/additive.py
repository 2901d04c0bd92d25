"""The additive decoder: one codebook per step whose sum estimates a vector from its codes, by least squares."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int, Integer, Real
from torch import Tensor

from qinco_lit.arrays import as_float32, as_int64, check_range
from qinco_lit.search.decoders.normal_equations import CodeProducts, CountMatrix, NormalEquations, sum_of_codewords

__all__ = ["AdditiveDecoder", "AdditiveFit", "code_columns", "sum_of_codewords"]

_ROWS_PER_BLOCK = 16_384
_DECODED_ROWS = 65_536


def code_columns(
    codes: Integer[np.ndarray, "rows steps"], num_steps: int, codebook_size: int, device: torch.device
) -> Int[Tensor, "rows steps"]:
    """Codes as int64, checked.

    Raises:
        ValueError: another number of steps, or a code beyond the codebook.
    """
    if codes.shape[1] != num_steps:
        raise ValueError(f"codes of shape {codes.shape} do not fit this decoder: expected (n, {num_steps})")
    columns = as_int64(codes, device, "codes", "uint8 or uint16")
    if codes.dtype != np.uint8 or codebook_size < 256:
        check_range(columns, codebook_size, word="code", option="codebook_size")
    return columns


@dataclass(frozen=True)
class AdditiveDecoder:
    """Estimates what codes describe (x, or x minus its centroid in an IVF codec) as a sum of codewords.

    Args:
        codebooks: (num_steps, codebook_size, dim), raw space.
    """

    codebooks: Float32[np.ndarray, "steps codebook dim"]

    def decode(self, codes: Integer[np.ndarray, "rows steps"]) -> Float32[np.ndarray, "rows dim"]:
        """Estimates in raw space.

        Raises:
            ValueError: codes of another width or out of range.
        """
        num_steps, codebook_size, dim = self.codebooks.shape
        out = torch.empty((len(codes), dim))
        for start in range(0, len(codes), _DECODED_ROWS):
            part = codes[start : start + _DECODED_ROWS]
            columns = code_columns(part, num_steps, codebook_size, torch.device("cpu"))
            out[start : start + len(part)] = sum_of_codewords(torch.from_numpy(self.codebooks), columns)
        return out.numpy()


class AdditiveFit:
    """Least squares for an `AdditiveDecoder`: one pass over the training vectors, whose targets are not kept.

    The normal matrix holds how often two codewords occur together, its right-hand side the sum of the targets of each
    codeword. Beyond `max_matrix_bytes` the codes are kept instead of the matrix, and conjugate gradients take its place
    (`normal_equations`). Among the solutions the one with small codewords is taken, unused ones are zero.

    Args:
        num_steps, codebook_size: of the codes.
        dim: of the targets.
        max_matrix_bytes: of a normal matrix; solving takes three times as much. 512 MiB are 8,192 codewords in all.
        device: where to accumulate and solve.
    """

    def __init__(
        self,
        num_steps: int,
        codebook_size: int,
        dim: int,
        *,
        max_matrix_bytes: int = 512 << 20,
        device: str | torch.device = "cpu",
    ) -> None:
        self.num_steps, self.codebook_size, self.dim = num_steps, codebook_size, dim
        self.device = torch.device(device)
        unknowns = num_steps * codebook_size
        fits = 8 * unknowns**2 <= max_matrix_bytes
        self._equations: NormalEquations = (CountMatrix if fits else CodeProducts)(
            num_steps, codebook_size, self.device
        )
        self._counts = torch.zeros(unknowns, dtype=torch.int64, device=self.device)
        self._sums = torch.zeros((unknowns, dim), dtype=torch.float64, device=self.device)
        self._squares = torch.zeros((), dtype=torch.float64, device=self.device)
        self._num_vectors = 0

    def add(self, codes: Integer[np.ndarray, "rows steps"], targets: Real[np.ndarray, "targets dim"]) -> None:
        """Take more training vectors into account.

        Args:
            codes: of `codebook_size` codewords a step.
            targets: what the codes describe, raw space: x, or x minus its centroid.

        Raises:
            ValueError: shapes or codes that do not fit; NaN or infinity, named by row.
        """
        if targets.shape != (len(codes), self.dim):
            raise ValueError(f"targets of shape {targets.shape} do not fit: expected {(len(codes), self.dim)}")
        for start in range(0, len(codes), _ROWS_PER_BLOCK):
            rows = slice(start, start + _ROWS_PER_BLOCK)
            columns = code_columns(codes[rows], self.num_steps, self.codebook_size, self.device)
            # float64: the ridge blows up what rounding leaves in the directions that the codes do not determine
            block = as_float32(targets[rows], self.device, self._num_vectors).double()
            self._add_block(columns, block)
            self._num_vectors += len(block)

    def _add_block(self, columns: Int[Tensor, "rows steps"], block: Float64[Tensor, "rows dim"]) -> None:
        for step in range(self.num_steps):
            own = slice(step * self.codebook_size, (step + 1) * self.codebook_size)
            self._sums[own].scatter_add_(0, columns[:, step, None].expand(-1, self.dim), block)
            self._counts[own] += torch.bincount(columns[:, step], minlength=self.codebook_size)
        self._equations.add(columns)
        self._squares += block.square().sum()

    def solve(self) -> tuple[AdditiveDecoder, dict[str, Any]]:
        """The decoder, and a report: what was free and how it was fixed; MSE, mean over vectors of the SUM over dims.

        Raises:
            ValueError: no training vectors.
        """
        if self._num_vectors == 0:
            raise ValueError("the additive decoder needs training vectors, none were added")
        squares = float(self._squares)
        codewords, squared_error, facts = self._equations.solve(self._counts, self._sums, squares)
        unused = int((self._counts == 0).sum())
        report = {
            "num_vectors": self._num_vectors,
            "num_unused_codewords": unused,
            "free_directions": unused + self.num_steps - 1,
            **facts,
            "mse_of_zero": squares / self._num_vectors,
            "mse": squared_error / self._num_vectors,
        }
        shape = (self.num_steps, self.codebook_size, self.dim)
        return AdditiveDecoder(codewords.reshape(shape).cpu().numpy()), report
