"""What faiss gives a training to start from, or to beat: OPQ's rotation for PQ-QINCo, codebooks of RQ and PQ."""

import math
from typing import Any

import faiss
import numpy as np
from faiss.contrib.inspect_tools import get_additive_quantizer_codebooks
from jaxtyping import Float, Float32, Int64

from qinco_lit.faiss_quantizers import prepare_kmeans, prepare_rq

_ROWS = 32_768  # 128 for each of 256 centroids: more change the error less than another start does
_MOST_BITS = 8


def some_rows(num_rows: int, seed: int) -> Int64[np.ndarray, " rows"]:
    """Which of so many training vectors a rotation is fitted to: at most 32,768 of them, in order."""
    if num_rows <= _ROWS:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, _ROWS, replace=False))


def opq_rotation(
    x: Float32[np.ndarray, "rows dim"], part_dims: list[int], *, seed: int
) -> Float32[np.ndarray, "dim dim"]:
    """The rotation R for which a product quantizer of R x has a small error (OPQ, Ge et al., CVPR 2013).

    Its parts have one code of up to 8 bits; where `part_dims` are not all the same, they are cut into pieces of the
    largest size that divides each. OPQ ends in the nearest optimum, so it starts from the identity, which is good for
    descriptors whose neighbouring dimensions belong together, and from a random rotation, which is good for others
    (by 2 % to 15 % of the error, measured); the better end is taken.

    Args:
        x: training vectors (`some_rows`), in raw space, less their centroids in a model with lists.
        part_dims: dimensions of the parts, dim in all.
        seed: of the random rotation and of the k-means.

    Returns:
        An orthogonal matrix: vectors are turned by `x @ R.T`, and back by `y @ R`.

    Raises:
        ValueError: fewer than two vectors.
    """
    rows, dim = x.shape
    # faiss sums in float32: far from the origin that is a poor mean
    x = (x - x.mean(0, dtype=np.float64)).astype(np.float32)
    if rows < 2:
        raise ValueError(f"model.opq=true with {rows} training vectors: a rotation needs at least 2")
    bits = min(_MOST_BITS, rows.bit_length() - 1)
    num_pieces = dim // math.gcd(*part_dims)
    x = np.resize(x, (max(rows, dim), dim))  # of fewer rows than dimensions faiss writes past the end of its buffers
    random, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    ends = [_trained(x, start, num_pieces, bits, seed) for start in (np.eye(dim), random)]
    return min(ends, key=lambda end: end[0])[1]


def _trained(
    x: Float32[np.ndarray, "rows dim"], start: Float[np.ndarray, "dim dim"], num_pieces: int, bits: int, seed: int
) -> tuple[float, Float32[np.ndarray, "dim dim"]]:
    """The squared error of the product quantizer that a start ends with, and the rotation; `x` is centred."""
    dim = len(start)
    pieces = faiss.ProductQuantizer(dim, num_pieces, bits)
    pieces.cp.seed = seed & 0x7FFFFFFF
    pieces.cp.min_points_per_centroid = 1  # few vectors are the user's choice: no warning on the terminal
    opq = faiss.OPQMatrix(dim, num_pieces)
    opq.pq = pieces  # a name here keeps it alive
    opq.max_train_points = len(x)
    faiss.copy_array_to_vector(start.astype(np.float32).ravel(), opq.A)
    opq.train(x)
    # the nearest orthogonal matrix: faiss' is one up to the rounding of float32
    left, _, right = np.linalg.svd(faiss.vector_to_array(opq.A).reshape(dim, dim).astype(np.float64))
    rotation = np.asarray(left @ right, dtype=np.float32)
    y: Any = x @ rotation.T
    decoded = pieces.decode(pieces.compute_codes(y))  # type: ignore[call-arg, func-returns-value]  # as in C++
    return float(np.square(y - decoded).sum(dtype=np.float64)), rotation


def residual_codebooks(
    x: Float32[np.ndarray, "rows dim"], num_steps: int, codebook_size: int, *, seed: int
) -> Float32[np.ndarray, "steps codebook dim"]:
    """Train a residual quantizer on the vectors and return its codebooks.

    Args:
        x: training vectors, float32.
        num_steps: residual steps (M).
        codebook_size: codewords per step (K), a power of two.
        seed: of the rows that k-means starts from.

    Raises:
        ValueError: faiss counts codewords in bits.
    """
    bits = (codebook_size - 1).bit_length()
    if codebook_size != 1 << bits:
        raise ValueError(
            f"recipe.initial_codebooks=faiss_rq needs a power of two, model.codebook_size is {codebook_size}"
        )
    quantizer = faiss.ResidualQuantizer(x.shape[1], num_steps, bits)
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.max_beam_size = 5
    quantizer.cp.seed = seed
    quantizer.cp.min_points_per_centroid = 1  # few vectors are the user's choice: no warning on the terminal
    quantizer.train(np.ascontiguousarray(x))
    return np.stack(get_additive_quantizer_codebooks(quantizer))  # type: ignore[no-untyped-call]


def baseline_codebooks(
    method: str,
    x: Float32[np.ndarray, "rows dim"],
    num_steps: int,
    codebook_size: int,
    *,
    mean: Float32[np.ndarray, " dim"],
) -> Float32[np.ndarray, "steps codebook dim"]:
    """Codebooks whose sums are what RQ or PQ, trained as the baselines of an evaluation, reconstruct, less `mean`.

    Those of PQ are zero but in the dimensions of their sub-vector; the last may be of fewer, as zeros pad it.

    Args:
        method: rq or pq.
        x: training vectors.
        num_steps: codes per vector.
        codebook_size: codewords per code, a power of two, no more than there are vectors.
        mean: what is subtracted.
    """
    (num_rows, dim), bits = x.shape, codebook_size.bit_length() - 1
    if method == "rq":
        rq: Any = faiss.ResidualQuantizer(dim, num_steps, bits)
        prepare_rq(rq, num_rows=num_rows)
        rq.train_type |= faiss.ResidualQuantizer.Skip_codebook_tables  # for encoding: codewords by codewords large
        rq.train(np.ascontiguousarray(x))
        codebooks: Float32[np.ndarray, "steps codebook dim"] = np.stack(get_additive_quantizer_codebooks(rq))  # type: ignore[no-untyped-call]
        codebooks[0] -= mean
        return codebooks
    width = -(-dim // num_steps)
    padding = (0, width * num_steps - dim)
    pq: Any = faiss.ProductQuantizer(width * num_steps, num_steps, bits)
    prepare_kmeans(pq.cp, most_per_codeword=-(-num_rows // codebook_size))
    pq.train(np.pad(x, ((0, 0), padding)))
    pieces = faiss.vector_to_array(pq.centroids).reshape(num_steps, codebook_size, width)
    codebooks = np.zeros((num_steps, codebook_size, width * num_steps), np.float32)
    for step, (piece, own_mean) in enumerate(zip(pieces, np.pad(mean, padding).reshape(num_steps, width), strict=True)):
        codebooks[step, :, step * width : (step + 1) * width] = piece - own_mean
    return codebooks[..., :dim]
