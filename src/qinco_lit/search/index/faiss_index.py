"""The faiss index of stored codes, `IVF{N}_HNSW32,RQ{M}x8_Nqint8`: made from decoded codebooks, filled with codes.

An entry of a list is what faiss' own residual quantizer would write: the codes, each in as few bits as the codebook
size needs, then one byte for the squared norm of the additive estimate of it. So any faiss reads and searches
the index, and its squared L2 is that to `centroid + sum of codewords`, up to the rounding of that byte. Where the codes
say all of a vector (`by_residual` false) it is that to the sum of codewords.
"""

from typing import Any

import faiss
import numpy as np
from faiss.contrib.inspect_tools import get_additive_quantizer_codebooks
from jaxtyping import Float32, Int64, Integer, UInt8

from qinco_lit.coarse.list_assigner import hnsw_index
from qinco_lit.vectors.neighbours import Metric, comparison

Index = Any  # faiss.IndexIVFResidualQuantizer; faiss' stubs lack most of what is used of it
Lists = Any  # faiss.InvertedLists

# Squared norms come in 256 levels. The training vectors' range is widened by this share of it on either side, as the
# database has vectors beyond; those farther out are stored with the nearest level.
_NORM_SLACK = 1 / 32
_BLOCK_BYTES = 32 << 20  # of additive estimates, while norms are computed


class NormRange:
    """Range of the squared norms of additive estimates, from those of training vectors."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf

    def add(self, estimates: Float32[np.ndarray, "n dim"]) -> None:
        """Take additive estimates of x - centroid, or of x where codes say all of it."""
        if len(estimates):
            norms = np.einsum("nd,nd->n", estimates, estimates)
            self._low, self._high = min(self._low, float(norms.min())), max(self._high, float(norms.max()))

    def limits(self) -> tuple[float, float]:
        """The range that an index stores, lowest and highest. Raises ValueError when nothing was added."""
        if self._low > self._high:
            raise ValueError("no training vectors: the range of the additive norms is unknown")
        slack = _NORM_SLACK * (self._high - self._low) or max(1e-6, 1e-3 * self._high)
        return max(0.0, self._low - slack), self._high + slack


def empty_index(
    centroids: Float32[np.ndarray, "lists dim"],
    codebooks: Float32[np.ndarray, "steps codebook dim"],
    norm_limits: tuple[float, float],
    *,
    metric: Metric = "l2",
    by_residual: bool = True,
) -> Index:
    """Return an index without vectors, ready for `add_codes`.

    Args:
        centroids: of the lists, raw space.
        codebooks: of the additive decoder; a codebook size that is no power of two is filled up with zeros.
        norm_limits: lowest and highest squared norm of an additive estimate (`NormRange.limits`).
        metric: l2, ip or cosine.
        by_residual: codes say what the centroid of their list leaves of a vector; False: all of it.
    """
    num_steps, codebook_size, dim = codebooks.shape
    bits = max(1, (codebook_size - 1).bit_length())
    quantizer = hnsw_index(centroids, metric)
    kind = faiss.METRIC_L2 if comparison(metric) == "l2" else faiss.METRIC_INNER_PRODUCT
    stored = faiss.AdditiveQuantizer.ST_norm_qint8
    index_type: Any = faiss.IndexIVFResidualQuantizer  # its stub has lost the number of bits
    index = index_type(quantizer, dim, len(centroids), num_steps, bits, kind, stored)
    quantizer.this.disown()
    index.own_fields, index.by_residual = True, by_residual
    filled = np.zeros((num_steps, 1 << bits, dim), dtype=np.float32)
    filled[:, :codebook_size] = codebooks
    faiss.copy_array_to_vector(filled.ravel(), index.rq.codebooks)
    # faster encoding by faiss itself would need (steps x codebook)^2 products, for nothing: it never encodes
    index.rq.train_type |= faiss.ResidualQuantizer.Skip_codebook_tables
    index.rq.norm_min, index.rq.norm_max = norm_limits
    index.rq.is_trained = index.is_trained = True
    return index


def additive_codebooks(index: Index, codebook_size: int) -> Float32[np.ndarray, "steps codebook dim"]:
    """Return the codebooks that the index was made from."""
    codebooks = get_additive_quantizer_codebooks(index.rq)  # type: ignore[no-untyped-call]
    return np.stack([codebook[:codebook_size] for codebook in codebooks])


def add_codes(
    index: Index,
    list_ids: Integer[np.ndarray, " n"],
    codes: Integer[np.ndarray, "n steps"],
    ids: Integer[np.ndarray, " n"],
) -> None:
    """Add vectors by their codes, in order; memory beyond the index is flat.

    Args:
        index: in memory, not memory-mapped.
        list_ids: the list of each vector.
        codes: of each vector.
        ids: distinct, not negative, and none of those in the index (not checked, that would read them all).

    Raises:
        ValueError: list ids or codes out of range, negative ids or one that is given twice, a memory-mapped index.
    """
    if is_mapped(index):
        raise ValueError(
            "cannot add to lists that are mapped from disk: build with on_disk=false, load with mmap=False"
        )
    _check_range(list_ids, index.nlist, "list id", "lists")
    _check_range(codes, 1 << index.rq.nbits.at(0), "code", "values of a code")
    wanted = np.ascontiguousarray(ids, dtype=np.int64)
    if len(wanted) and wanted.min() < 0:
        raise ValueError(f"id {wanted.min()} is negative: ids are integers from 0 on")
    order = np.sort(wanted)
    if len(twice := order[1:][order[1:] == order[:-1]]):
        raise ValueError(f"id {twice[0]} is given twice: ids must differ")
    append_codes(index, list_ids, codes, wanted)


def append_codes(
    index: Index,
    list_ids: Integer[np.ndarray, " n"],
    codes: Integer[np.ndarray, "n steps"],
    ids: Int64[np.ndarray, " n"],
) -> None:
    """`add_codes` without its checks, for callers that have made them."""
    rows = max(1, _BLOCK_BYTES // (4 * index.d))
    for start in range(0, len(ids), rows):
        part = slice(start, start + rows)
        index.add_sa_codes(_entries(index, list_ids[part], codes[part]), ids[part])


def list_sizes(index: Index) -> Int64[np.ndarray, " lists"]:
    """Return the number of vectors in each list."""
    lists = index.invlists
    return np.fromiter((lists.list_size(number) for number in range(index.nlist)), np.int64, index.nlist)


def is_mapped(index: Index) -> bool:
    """Whether the lists stay on the disk, and cannot be changed."""
    return isinstance(faiss.downcast_InvertedLists(index.invlists), faiss.OnDiskInvertedLists)


def _entries(
    index: Index, list_ids: Integer[np.ndarray, " n"], codes: Integer[np.ndarray, "n steps"]
) -> UInt8[np.ndarray, "n bytes"]:
    """List ids and codes in the bytes that faiss stores, the byte of the norm included; faiss itself packs them."""
    num_rows, list_bytes = len(codes), index.coarse_code_size()
    plain = np.ascontiguousarray(codes, dtype=np.int32)
    packed = np.empty((num_rows, index.code_size), dtype=np.uint8)
    index.rq.pack_codes(num_rows, _pointer(plain), _pointer(packed))
    little_endian = np.ascontiguousarray(list_ids, dtype="<i8").view(np.uint8).reshape(num_rows, 8)
    return np.concatenate([little_endian[:, :list_bytes], packed], axis=1)


def _pointer(array: np.ndarray) -> Any:
    return faiss.swig_ptr(array)


def _check_range(values: Integer[np.ndarray, "..."], limit: int, what: str, of: str) -> None:
    if values.size and not 0 <= values.min() <= values.max() < limit:
        bad = values.min() if values.min() < 0 else values.max()
        raise ValueError(f"{what} {bad} is out of range: the index has {limit} {of}")
