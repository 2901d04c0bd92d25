"""Normal equations of the additive decoder: as a matrix of counts, or through the codes where that would be too large.

Both are of the same least-squares problem: the matrix, (steps x codebook) squared, holds how often two codewords occur
together. It never has full rank: moving all of one codebook by a vector and all of another by its opposite changes
nothing, and unused codewords are free.
"""

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

_RIDGE = 1e-9  # relative to the mean count of a codeword: reconstruction errors agree with dense least squares to 1e-6
_LEAST_GAIN = 1e-7  # of an iteration, relative to the squared error, below which there is nothing left to gain
_ROUNDING = 1e-12  # relative to the first squared norm of a dimension: below it there is only noise of float32
_MOST_ITERATIONS = 300  # some 40 are usual, 150 where columns nearly determine each other


class Solution(NamedTuple):
    """Codewords (steps x codebook, dim), the squared error that they leave in all, and how they were found."""

    codewords: Float[Tensor, "unknowns dim"]
    squared_error: float
    facts: dict[str, Any]


class NormalEquations(Protocol):
    """The left-hand side, made of codes block by block."""

    def add(self, columns: Int[Tensor, "rows steps"]) -> None:
        """Take the codes of more vectors into account."""

    def solve(
        self, counts: Int[Tensor, " unknowns"], sums: Float64[Tensor, "unknowns dim"], squares: float
    ) -> Solution:
        """Codewords, given how many targets each has, their sum, and the summed squares of all targets."""


def sum_of_codewords(
    codebooks: Float[Tensor, "steps codebook dim"], columns: Int[Tensor, "rows steps"]
) -> Float[Tensor, "rows dim"]:
    """One codeword of every codebook, summed; columns are not checked."""
    num_steps, codebook_size, dim = codebooks.shape
    if num_steps == 0:
        return torch.zeros((len(columns), dim), dtype=codebooks.dtype, device=codebooks.device)
    first_rows = torch.arange(num_steps, device=columns.device) * codebook_size
    # one fused gather and sum: a fifth of the time of as many gathers added up
    return F.embedding_bag(columns + first_rows, codebooks.reshape(-1, dim), mode="sum")


class CountMatrix:
    """The matrix itself, in float64: memory does not grow with the vectors; solving takes three times that.

    A tiny ridge picks the solution of smallest norm, with unused codewords zero.
    """

    def __init__(self, num_steps: int, codebook_size: int, device: torch.device) -> None:
        self.num_steps, self.codebook_size = num_steps, codebook_size
        unknowns = num_steps * codebook_size
        self._matrix = torch.zeros((unknowns, unknowns), dtype=torch.float64, device=device)

    def add(self, columns: Int[Tensor, "rows steps"]) -> None:
        """Take the codes of more vectors into account; only the lower half is filled."""
        size = self.codebook_size
        for a in range(self.num_steps):
            for b in range(a + 1):
                together = torch.bincount(columns[:, a] * size + columns[:, b], minlength=size**2)
                self._matrix[a * size : (a + 1) * size, b * size : (b + 1) * size] += together.view(size, size)

    def solve(
        self, counts: Int[Tensor, " unknowns"], sums: Float64[Tensor, "unknowns dim"], squares: float
    ) -> Solution:
        """By Cholesky's factors."""
        factor, ridge = self._factor()
        codewords = torch.cholesky_solve(sums, factor).float()
        pivots = factor.diagonal()
        facts = {"ridge": ridge, "condition_at_least": float((pivots.max() / pivots.min()) ** 2)}
        # the diagonal blocks are diagonal, so their lower halves are all of them
        exact = codewords.double()
        quadratic = 2 * float((exact * (self._matrix.tril() @ exact)).sum())
        quadratic -= float((counts[:, None] * exact.square()).sum())
        return Solution(codewords, _squared_error(exact, quadratic, sums, squares), facts)

    def _factor(self) -> tuple[Float64[Tensor, "unknowns unknowns"], float]:
        """Cholesky factor of the lower half plus a ridge, and that ridge: the first that makes it positive definite."""
        ridge = _RIDGE * float(self._matrix.diagonal().mean())
        while True:
            matrix = self._matrix.clone()
            matrix.diagonal().add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not bool(failed):
                return factor, ridge
            ridge *= 10


class CodeProducts:
    """The codes, two bytes each, with which the matrix is multiplied: memory grows with the vectors, not with K^2."""

    def __init__(self, num_steps: int, codebook_size: int, device: torch.device) -> None:
        self.num_steps, self.codebook_size, self._device = num_steps, codebook_size, device
        self._blocks: list[Shaped[Tensor, "rows steps"]] = []

    def add(self, columns: Int[Tensor, "rows steps"]) -> None:
        """Take the codes of more vectors into account."""
        self._blocks.append(columns.to(self._device, torch.uint16))

    def _times(self, x: Float[Tensor, "unknowns dim"]) -> Float[Tensor, "unknowns dim"]:
        """The matrix times x: what the codewords x decode to, summed again by codeword."""
        size = self.codebook_size
        out = torch.zeros_like(x)
        for block in self._blocks:
            columns = block.long()
            decoded = sum_of_codewords(x.view(self.num_steps, size, -1), columns)
            for step in range(self.num_steps):
                out[step * size : (step + 1) * size].index_add_(0, columns[:, step], decoded)
        return out

    def solve(
        self, counts: Int[Tensor, " unknowns"], sums: Float64[Tensor, "unknowns dim"], squares: float
    ) -> Solution:
        """By conjugate gradients from zero, scaled by the counts: unused codewords, and free directions, stay zero."""
        scale = (1.0 / counts.clamp(min=1))[:, None].float()
        x = torch.zeros_like(sums, dtype=torch.float32)
        rest = sums.float()
        scaled = scale * rest
        direction, norms = scaled.clone(), _dots(rest, scaled)
        solved = _ROUNDING * norms
        error, iterations = squares, 0
        while iterations < _MOST_ITERATIONS and bool((norms > solved).any()):
            product = self._times(direction)
            length = torch.where(norms > solved, norms / _dots(direction, product), 0.0)
            x += length.float() * direction
            rest -= length.float() * product
            gain = float((length * norms).sum())
            error, iterations = error - gain, iterations + 1
            if gain <= _LEAST_GAIN * error:
                break
            scaled = scale * rest
            before, norms = norms, _dots(rest, scaled)
            direction = scaled + torch.where(before > 0, norms / before, 0.0).float() * direction
        exact = x.double()
        # in float64: what the iterations add up drifts where the targets are far from zero
        left = _squared_error(exact, float((exact * self._times(exact)).sum()), sums, squares)
        return Solution(x, left, {"iterations": iterations})


def _dots(a: Float[Tensor, "rows dim"], b: Float[Tensor, "rows dim"]) -> Float64[Tensor, " dim"]:
    return (a * b).sum(0, dtype=torch.float64)


def _squared_error(
    codewords: Float64[Tensor, "unknowns dim"],
    quadratic: float,
    sums: Float64[Tensor, "unknowns dim"],
    squares: float,
) -> float:
    """Summed over the vectors, from what the normal equations hold alone; `quadratic`: the norm of what is decoded."""
    return max(0.0, squares - 2 * float((codewords * sums).sum()) + quadratic)
