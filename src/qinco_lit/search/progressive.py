"""The full decoder on shortlists, step by step: what cannot be among the best any more is not decoded to its end.

After s of M codes a reconstruction x_s is known, and about what it will become

    x_M = x_s + sum_{m >= s} A_m[i_m] + b_s + e

with the codebooks A of the additive decoder, the mean b_s of what these leave, and an error e. A sample of the index
says how large e is in the direction of a query: the squared L2 between a query q and x_M is known up to |q - x_M| t_s,
an inner product up to |q| t_s. A candidate is dropped whose estimate is behind the k-th best one by more than `_MARGIN`
standard deviations of the difference of the two (benchmarks/RESULTS.md, "One query at a time").
"""

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32, Int64, Integer
from torch import Tensor
from torch.nn import functional as F

from qinco_lit.codec import Codec
from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.step import StepTables
from qinco_lit.quantizers.workers import for_each
from qinco_lit.search.plain_scan import Candidates
from qinco_lit.search.rerank import Pairs

_MARGIN = 1.6
_LEAST_MULTIPLICATIONS = 256  # of a step, by dimension: smaller networks take no longer than a look at their results
_EVERY = 2  # steps
_LOOK_MULTIPLICATIONS = 80_000_000  # left to do, from which on a look at the candidates pays
_BLOCK_MULTIPLICATIONS = 75_000_000  # of a step's products: two milliseconds of a core
_LEAST_ROWS, _MOST_ROWS = 64, 4096  # of a block

# list ids and codes of vectors of the index
Sample = Callable[[], tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"]]]


class Outlook(NamedTuple):
    """What the codes that are not read yet add to a reconstruction, before code 0, 1, ...

    Attributes:
        means: b_s; 0 for the first, of which the scores of shortlists know nothing.
        spreads: t_s.
    """

    means: list[Float[Tensor, " dim"]]
    spreads: list[float]


class ProgressiveDecoder:
    """Re-ranks shortlists by the reconstructions of a codec on the CPU.

    Args:
        codec: whose precision the reconstructions have.
        codebooks: of the additive decoder, raw space.
        by_residual: whether codes say what centroids leave, and list ids are needed.
        inner_product: whether larger is better.
        sample: of the index; called at the first search that drops candidates.
    """

    def __init__(
        self,
        codec: Codec,
        codebooks: Float32[np.ndarray, "steps codebook dim"],
        *,
        by_residual: bool,
        inner_product: bool,
        sample: Sample,
    ) -> None:
        self._codec, self._by_residual, self._inner_product, self._sample = codec, by_residual, inner_product, sample
        self._tables = [[_by_columns(table) for table in part] for part in codec.tables]
        # of rotated vectors: a rotation changes neither squared L2 nor inner products
        self._codebooks = codec.quantizer.rotated(torch.from_numpy(codebooks).flatten(0, 1))
        self._firsts = codebooks.shape[1] * torch.arange(len(codebooks))[:, None]
        self._per_row = codec.quantizer.decode_multiplications() // codec.num_steps
        self._pays = self._per_row >= _LEAST_MULTIPLICATIONS * codec.dim
        self._outlooks: dict[int, Outlook] = {}
        self._looking = threading.Lock()

    def rerank(
        self,
        queries: Float[np.ndarray, "queries dim"],
        candidates: Candidates,
        size: int,
        *,
        num_steps: int,
        num_threads: int | None = None,
    ) -> Candidates:
        """As `rerank.rerank` with these reconstructions, up to candidates that are among the best against the odds.

        Args:
            queries: raw space.
            candidates: by scores that are distances to additive estimates, or to better ones.
            size: at least 1, at most that of the shortlists.
            num_steps: codes that are decoded, the first ones.
            num_threads: of shortlists so long that they are decoded in several blocks; None: those of torch.
        """
        quantizer, pairs = self._codec.quantizer, Pairs(candidates)
        raw = torch.from_numpy(queries)
        with torch.inference_mode():
            drops = self._pays and candidates.ids.shape[1] > size
            if drops:
                outlook, rotated = self._outlook(num_steps), quantizer.rotated(raw)
                asked = rotated if self._inner_product else rotated - quantizer.data_mean
                norms = np.linalg.norm(queries, axis=1) if self._inner_product else None
                self._drop(pairs, candidates.scores.reshape(-1)[pairs.flat], size, outlook.spreads[0], norms)
            codes, list_ids = pairs.distinct(num_steps)
            walk = self._walk(codes, list_ids, num_threads)
            for step in range(num_steps):
                left = len(walk) * (num_steps - step) * self._per_row
                if drops and step and step % _EVERY == 0 and left >= _LOOK_MULTIPLICATIONS:
                    x_hat = walk.x_hat() + outlook.means[step] + self._rest(walk.codes, step)
                    estimates = pairs.scores(asked, x_hat, inner_product=self._inner_product)
                    self._drop(pairs, estimates, size, outlook.spreads[step], norms)
                    pairs.place = walk.keep(pairs.place)
                walk.advance()
            scores = pairs.scores(raw, walk.reconstructions(), inner_product=self._inner_product)
        return pairs.best(scores, size, inner_product=self._inner_product)

    def _walk(
        self, codes: Integer[np.ndarray, "n steps"], list_ids: Int32[np.ndarray, " n"], num_threads: int | None
    ) -> "_Walk":
        lists = list_ids if self._by_residual else None
        return _Walk(self._codec.quantizer, self._tables, codes, lists, num_threads)

    def _drop(
        self,
        pairs: Pairs,
        estimates: Float32[np.ndarray, " pairs"],
        size: int,
        spread: float,
        norms: Float32[np.ndarray, " queries"] | None,
    ) -> None:
        """Keep the pairs that may be among the `size` best of their query; an estimate that is no number keeps them."""
        values = -estimates if self._inner_product else estimates
        with np.errstate(invalid="ignore", over="ignore"):
            last = pairs.kth_smallest(values, size)
            deviation = spread * (np.sqrt(np.maximum(last, 0)) if norms is None else norms)
            limit = last + np.float32(_MARGIN * math.sqrt(2)) * deviation
            gone = values > limit[pairs.queries]
        pairs.keep(~gone)

    def _rest(self, codes: Int[Tensor, "steps n"], step: int) -> Float[Tensor, "n dim"]:
        """What the additive decoder says of the codes from `step` on, rotated."""
        rows = codes[step:] + self._firsts[step : len(codes)]
        return F.embedding_bag(rows.T.contiguous(), self._codebooks, mode="sum")

    def _outlook(self, num_steps: int) -> Outlook:
        """Of so many steps, as vectors of the index have it."""
        with self._looking:
            if num_steps not in self._outlooks:
                self._outlooks[num_steps] = self._look(num_steps)
            return self._outlooks[num_steps]

    def _look(self, num_steps: int) -> Outlook:
        list_ids, codes = self._sample()
        walk = self._walk(codes, list_ids, None)
        mean = self._codec.quantizer.data_mean
        # the scores of the shortlists are of all codes, and centroids or means are in them
        expected = [walk.x_hat() + self._rest(walk.codes, 0) - (0 if self._by_residual else mean)]
        means = [torch.zeros_like(mean)]
        walk.codes = walk.codes[:num_steps]
        for step in range(1, num_steps):
            walk.advance()
            expected.append(walk.x_hat() + self._rest(walk.codes, step))
        walk.advance()
        end = walk.x_hat()
        means += [(end - each).mean(0) for each in expected[1:]]
        # vectors of one list follow each other: the next one is near, and stands for a query
        query = end.roll(1, 0) + (mean if self._inner_product else 0)
        spreads = []
        for each, offset in zip(expected, means, strict=True):
            x_hat = each + offset
            if self._inner_product:
                off = (query * (end - x_hat)).sum(1) / query.norm(dim=1)
            else:
                away = (query - x_hat).square().sum(1)
                off = ((query - end).square().sum(1) - away) / away.sqrt()
            spreads.append(float(off[torch.isfinite(off)].square().mean().nan_to_num().sqrt()))
        return Outlook(means, spreads)


def _by_columns(table: StepTables) -> StepTables:
    """The same network with matrices that lie in memory as products of a few rows read them.

    A product with the transpose of one takes two thirds of the time at 12 to 64 rows (AVX-512; 85 % with AVX2).
    """

    def laid_out(weight: Any) -> Any:
        if isinstance(weight, tuple):
            return tuple(laid_out(each) for each in weight)
        is_matrix = isinstance(weight, Tensor) and weight.ndim == 2 and weight.dtype == torch.float32
        return weight.T.contiguous().T if is_matrix else weight

    weights = type(table.exact.weights)(*(laid_out(weight) for weight in table.exact.weights))
    return table._replace(exact=table.exact._replace(weights=weights))


class _Walk:
    """Reconstructions of some vectors, one code after the other.

    Args:
        num_threads: on which long ones are computed, in blocks that do not depend on it.

    Attributes:
        codes: of the vectors, by step.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        tables: list[list[StepTables]],
        codes: Integer[np.ndarray, "n steps"],
        list_ids: Int32[np.ndarray, " n"] | None,
        num_threads: int | None,
    ) -> None:
        self._quantizer, self._tables, self._num_threads = quantizer, tables, num_threads
        self.codes: Int[Tensor, "steps n"] = torch.from_numpy(codes.T.astype(np.int64, order="C"))
        lists = None if list_ids is None else torch.from_numpy(list_ids.astype(np.int64))
        self._parts, self._step = self._quantizer.starts(lists), 0
        per_row = max(1, self._quantizer.decode_multiplications() // self._quantizer.num_steps)
        self._rows = min(_MOST_ROWS, max(_LEAST_ROWS, _BLOCK_MULTIPLICATIONS // per_row))

    def __len__(self) -> int:
        return self.codes.shape[1]

    def x_hat(self) -> Float[Tensor, "n dim"]:
        """Rotated reconstructions minus their mean."""
        return self._quantizer.joined(self._parts, len(self)) * self._quantizer.data_std

    def reconstructions(self) -> Float[Tensor, "n dim"]:
        """In raw space."""
        return self._quantizer.denormalize(self._quantizer.joined(self._parts, len(self)))

    def advance(self) -> None:
        """Read the next code of each."""
        step, number = self._step, len(self)
        self._step += 1
        if number <= self._rows:
            self._quantizer.advance(step, self.codes[step], self._parts, self._tables)
            return
        blocks = [(start, min(start + self._rows, number)) for start in range(0, number, self._rows)]
        done: dict[int, list[Tensor | None]] = {}

        def advance(start: int, stop: int) -> None:
            parts = [None if part is None else part[start:stop] for part in self._parts]
            self._quantizer.advance(step, self.codes[step, start:stop], parts, self._tables)
            done[start] = parts

        for_each(advance, blocks, self._quantizer.device, num_threads=self._num_threads)
        joined = zip(*(done[start] for start, _ in blocks), strict=True)
        self._parts = [None if parts[0] is None else torch.cat(parts) for parts in joined]

    def keep(self, place: Int64[np.ndarray, " pairs"]) -> Int64[np.ndarray, " pairs"]:
        """Go on with the vectors at these places only; returns where they are then."""
        used = np.zeros(len(self), dtype=bool)
        used[place] = True
        rows = np.flatnonzero(used)
        if len(rows) == len(used):
            return place
        kept = torch.from_numpy(rows)
        self.codes = self.codes.index_select(1, kept)
        self._parts = [None if part is None else part.index_select(0, kept) for part in self._parts]
        moved: Int64[np.ndarray, " n"] = np.cumsum(used) - 1
        return np.asarray(moved[place])
