"""Fit the pairwise decoder: additive estimate plus shrunk tables of pairs of codes."""

import math
import time
from itertools import pairwise
from typing import Any

import faiss
import numpy as np
import torch
from jaxtyping import Float32, Integer

from qinco_lit.progress import Progress
from qinco_lit.search.decoders.additive import AdditiveDecoder
from qinco_lit.search.decoders.pairwise_decoder import PairwiseDecoder
from qinco_lit.search.decoders.pairwise_greedy import (
    AdditiveResiduals,
    CodedVectors,
    GreedyTables,
    LearningPoint,
    mean_squared_error,
)
from qinco_lit.search.decoders.pairwise_tables import PairRanking, PairTable

__all__ = ["CodedVectors", "PairwiseDecoder", "fit_pairwise", "quantize_lists", "tables_too_large"]

MAX_TABLE_BYTES = 4 << 30  # of all tables together, in float32: they are fitted in it

_DTYPES = ("float32", "float16")
_LARGEST_HALF = 65_504.0
_KMEANS_ITERATIONS = 50  # of a level of list codes
_WORTHWHILE = 5e-3  # relative gain of validation MSE that makes twice the training vectors pay off
_MOST_DOUBLINGS = 10  # further than that a learning curve of three points says nothing


def fit_pairwise(
    training: CodedVectors,
    validation: CodedVectors,
    additive: AdditiveDecoder,
    centroids: Float32[np.ndarray, "lists dim"],
    populations: Integer[np.ndarray, " populations"],
    *,
    num_list_codes: int = 5,
    num_tables: int | None = None,
    min_gain: float = 1e-4,
    dtype: str = "float32",
    selection_rows: int = 100_000,
    projected_dim: int = 32,
    num_exact: int = 3,
    max_table_bytes: int = MAX_TABLE_BYTES,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> tuple[PairwiseDecoder, dict[str, Any]]:
    """Greedy tables over pairs of code columns on top of the additive decoder (QINCo2, pairwise decoding).

    A cell holds the sum of its residuals over their number plus a pseudo-count. Pair and pseudo-count are those with
    the smallest leave-one-out error, and a later table is fitted to what the earlier ones would leave of each vector
    had they been fitted without it. A table that does not lower the validation MSE is left out: the decoder is never
    worse there than the additive one, and may have fewer tables than asked for, even none.

    Args:
        training: vectors to fit to, read once per table; any number.
        validation: other vectors, which decide what stays; held in memory (10,000 are enough).
        additive: the decoder to start from, fitted to the training vectors.
        centroids: of the coarse lists, raw space.
        populations: vectors in each list.
        num_list_codes: codes of each list that are paired too; 0 for none.
        num_tables: at most; None: two per step, as in the paper; 0: the additive decoder alone.
        min_gain: relative gain of validation MSE that a table has to bring.
        dtype: of the tables, float32 or float16.
        selection_rows: training vectors, the first ones, that choose pairs; held in memory.
        projected_dim: random directions in which all pairs are scored; with `dim` or more the scores are exact.
        num_exact: of the best pairs, how many are scored exactly, and tried until one stays.
        max_table_bytes: refuse tables that take more, in float32.
        seed: of list codes and directions.
        device: where to compute.
        progress: is told the tables that were tried.

    Returns:
        The decoder and a report; MSE in raw space, mean over vectors of the SUM over dims.

    Raises:
        ValueError: no vectors, tables beyond `max_table_bytes`, values too large for float16, what `blocks` refuses.
    """
    num_steps, codebook_size, dim = additive.codebooks.shape
    num_tables = 2 * num_steps if num_tables is None else num_tables
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r} is none of {', '.join(_DTYPES)}")
    _check_sizes(num_tables, codebook_size, dim, max_table_bytes)
    for name, vectors in {"training": training, "validation": validation}.items():
        if len(vectors) == 0:
            raise ValueError(f"the pairwise decoder needs {name} vectors, there are none")
    began = time.perf_counter()
    list_codes = quantize_lists(
        centroids, populations, num_codes=num_list_codes, codebook_size=codebook_size, seed=seed
    )
    codebooks = torch.from_numpy(additive.codebooks).to(device)
    held_out = AdditiveResiduals(validation, codebooks, list_codes).head(len(validation))
    report: dict[str, Any] = {
        "num_training_vectors": len(training),
        "num_validation_vectors": len(validation),
        "list_codes_s": time.perf_counter() - began,
        "additive_validation_mse": mean_squared_error(held_out[1]),
    }
    report |= {"stopped": f"num_tables={num_tables} reached", "tables": [], "learning_curve": []}
    tables: list[PairTable] = []
    if num_tables > 0:
        source = AdditiveResiduals(training, codebooks, list_codes)
        sample = source.head(selection_rows)
        ranking = PairRanking(*sample, codebook_size, projected_dim=projected_dim, num_exact=num_exact, seed=seed)
        greedy = GreedyTables(source, held_out, ranking, min_gain=min_gain, progress=progress)
        report |= {"stopped": greedy.fit(num_tables)} | greedy.report()
        tables = greedy.tables
    decoder = _assembled(tables, list_codes, additive, dtype)
    report |= {
        "advice": advice(greedy.learning_curve if num_tables > 0 else []),
        "dtype": dtype,
        "num_bytes": decoder.num_bytes,
        "float32_validation_mse": mean_squared_error(greedy.residuals if num_tables > 0 else held_out[1]),
        "validation_mse": _decoded_mse(decoder, validation),
        "seconds": time.perf_counter() - began,
    }
    return decoder, report


def tables_too_large(
    num_tables: int, codebook_size: int, dim: int, max_table_bytes: int = MAX_TABLE_BYTES
) -> str | None:
    """Why so many tables are not fitted, in words; None: they are."""
    table_bytes = 4 * num_tables * codebook_size**2 * dim
    if table_bytes <= max_table_bytes:
        return None
    return (
        f"{num_tables} pairwise tables of {codebook_size}^2 x {dim} float32 take {table_bytes / 1e9:.1f} GB, "
        f"more than {max_table_bytes / 1e9:.1f} GB"
    )


def _check_sizes(num_tables: int, codebook_size: int, dim: int, max_table_bytes: int) -> None:
    if num_tables < 0:
        raise ValueError(f"num_tables={num_tables}: give at least 0")
    if reason := tables_too_large(num_tables, codebook_size, dim, max_table_bytes):
        raise ValueError(f"{reason} (max_table_bytes): lower num_tables (0: no pairwise decoder)")


def _assembled(
    tables: list[PairTable], list_codes: Integer[np.ndarray, "lists codes"], additive: AdditiveDecoder, dtype: str
) -> PairwiseDecoder:
    """The decoder of these tables; the list is emptied on the way, so that they are never all in memory twice."""
    _, codebook_size, dim = additive.codebooks.shape
    if dtype == "float16" and sum(float(table.values.abs().max()) for table in tables) > _LARGEST_HALF:
        raise ValueError("the pairwise tables add up to values beyond float16: use pairwise_dtype=float32")
    pairs = [table.pair for table in tables]
    values = np.empty((len(pairs), codebook_size**2, dim), dtype)
    for place in range(len(pairs)):
        values[place] = tables.pop(0).values.cpu().numpy()
    return PairwiseDecoder(pairs, values, list_codes, additive)


def _decoded_mse(decoder: PairwiseDecoder, vectors: CodedVectors) -> float:
    """As anybody who decodes sees it."""
    total = 0.0
    for codes, list_ids, targets in vectors.blocks():
        error = np.asarray(targets, np.float32) - decoder.decode(list_ids, codes)
        total += float(np.square(error).sum(dtype=np.float64))
    return total / len(vectors)


def advice(curve: list[LearningPoint]) -> str:
    """How many training vectors pay off, from what the last doublings of their number gained."""
    changes = [b.validation_mse / a.validation_mse - 1 for a, b in pairwise(curve)]
    if len(changes) < 2:
        return "too few training vectors to say how many pay off"
    earlier, last = changes[-2:]
    number = curve[-1].num_vectors
    measured = f"the last doubling, to {number:,} training vectors, changed the first table's MSE by {last:+.1%}"
    if last > -_WORTHWHILE:
        return f"{measured}: more would hardly pay off"
    falls = last / earlier if earlier < 0 else 1.0  # from a doubling to the next, the gain does
    doublings = math.log(-_WORTHWHILE / last) / math.log(falls) if falls < 1 else math.inf
    if doublings > _MOST_DOUBLINGS:
        return f"{measured}: many times more would pay off"
    return f"{measured}: up to about {number * 2 ** math.ceil(doublings):,} would pay off"


def quantize_lists(
    centroids: Float32[np.ndarray, "lists dim"],
    populations: Integer[np.ndarray, " populations"],
    *,
    num_codes: int,
    codebook_size: int,
    seed: int = 0,
) -> Integer[np.ndarray, "lists codes"]:
    """Residual k-means codes of the centroids, each weighted by how many vectors its list holds.

    They are the columns that the pairwise decoder pairs with a vector's codes. Threads change nothing.

    Args:
        centroids: of the lists; any number of them.
        populations: vectors in each list.
        num_codes: levels of the residual k-means, may be 0.
        codebook_size: codewords a level; with fewer lists than that, every list has its own code at the first.
        seed: of the codewords a level starts from, drawn by weight.

    Returns:
        (num_lists, num_codes), uint8, or uint16 for codebooks of more than 256.
    """
    if len(populations) != len(centroids):
        raise ValueError(f"{len(populations)} populations do not fit {len(centroids)} centroids")
    rng = np.random.default_rng(seed)
    weights = populations.astype(np.float32)
    weights += max(1e-3 * float(weights.mean()), 1e-6)  # an empty list may be filled later: it counts a little
    shares = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    residual = centroids - np.float32(shares @ centroids)
    num_lists, dim = residual.shape
    codes = np.zeros((num_lists, num_codes), np.uint8 if codebook_size <= 256 else np.uint16)
    for level in range(num_codes):
        codebook = residual.copy()
        if num_lists > codebook_size:
            start = residual[rng.choice(num_lists, codebook_size, replace=False, p=shares)]
            kmeans: Any = faiss.Kmeans(
                dim, codebook_size, niter=_KMEANS_ITERATIONS, seed=seed, min_points_per_centroid=1,
                max_points_per_centroid=num_lists,
            )  # fmt: skip
            kmeans.train(residual, weights=weights, init_centroids=start)
            codebook = kmeans.centroids
        index: Any = faiss.IndexFlatL2(dim)
        index.add(codebook)
        assigned = index.search(residual, 1)[1][:, 0]
        residual -= codebook[assigned]
        codes[:, level] = assigned
    return codes
