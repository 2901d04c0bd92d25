"""Indexes of faiss as engines, to compare with: the same lists and coarse search as ours, other codes in them.

- ivf_pq: product quantizer of the residual, 8 bits a code.
- ivf_rq: faiss' own residual quantizer of it, trained by k-means, with its norm in one byte.
- ivf_pqfs: product quantizer of 4 bits a code, scanned in registers.
- ivf_pqfs_refine: the same in half the bytes; the other half is a residual quantizer that ranks the results again.
- rabitq: one bit per dimension of the rotated residual and 8 bytes of factors, whatever the rate asked for.
- rabitq2: two bits per dimension (extended RaBitQ) and 20 bytes of factors.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Shaped

from qinco_lit.coarse.list_assigner import EXACT_LISTS, hnsw_index
from qinco_lit.faiss_quantizers import PQ_SETTINGS, RQ_SETTINGS, prepare_kmeans, prepare_rq, widen_beam
from qinco_lit.search.plain_scan import ivf_parameters
from qinco_lit.search.points.engines import Effort, EngineResult
from qinco_lit.vectors.neighbours import Metric

# faiss' stubs lack the keywords of its parameters and take some of its numbers for truth values
_lib: Any = faiss

METHODS = ("ivf_pq", "ivf_rq", "ivf_pqfs", "ivf_pqfs_refine", "rabitq", "rabitq2")
CODEBOOK_SIZE = 256
# What is trained and how: recorded in results, and part of the cache's key.
#
# On photo_sift (128 lists, 8 bytes, 100k training vectors, 20k database vectors, 16 lists visited) fast-scan codes have
# R@1 0.540 of the residual and 0.511 of the vector itself; re-ranking by 4 of the 8 bytes gives 0.447 with a residual
# quantizer and 0.377 with a product quantizer; RaBitQ 0.685 after a random rotation and 0.557 without.
SETTINGS: dict[str, dict[str, int]] = {
    "ivf_pq": dict(PQ_SETTINGS),
    "ivf_rq": dict(RQ_SETTINGS),
    "ivf_pqfs": {**PQ_SETTINGS, "of_residual": 1},
    "ivf_pqfs_refine": {"of_residual": 1, **RQ_SETTINGS},
    "rabitq": {"rotation_seed": 1, "query_bits": 8},
    "rabitq2": {"rotation_seed": 1, "query_bits": 8, "bits": 2},
}
# Enough for 1,024 residuals per codeword (RQ_SETTINGS says what fewer cost).
MAX_TRAINING_ROWS = 1024 * CODEBOOK_SIZE
_ADD_ROWS = 65_536
_BLOCK = 32  # codes that are scanned together
_BUILD_EF_SEARCH = 256  # breadth of the search for a vector's list where brute force would take too long


class FaissEngine:
    """An index of `built_index` as an engine.

    Args:
        method: one of METHODS.
        index: trained and filled; ids are positions.
        nprobe, ef_search: values to try.
    """

    def __init__(self, method: str, index: Any, *, nprobe: Sequence[int], ef_search: Sequence[int]) -> None:
        self.name, self._index = method, index
        self.parameters: Mapping[str, Sequence[int]] = {"nprobe": nprobe, "ef_search": ef_search}
        if method == "ivf_pqfs_refine":
            self.parameters = {**self.parameters, "num_reranked": [100, 400]}

    @property
    def bytes_per_vector(self) -> Mapping[str, float]:
        """Codes, and what else there is; see METHODS."""
        if self.name == "ivf_pqfs_refine":
            base, second = faiss.downcast_index(self._index.base_index), self._index.refine_index
            return {"codes": int(_ivf(base).code_size), "re-rank codes": int(second.sa_code_size())}
        ivf = _ivf(self._index)
        size = int(ivf.code_size)
        if self.name == "ivf_rq":
            norm = int(ivf.rq.norm_bits) // 8
            return {"codes": size - norm, "norm": norm}
        if _is_rabitq(self.name):
            bits = -(-int(ivf.d) // 8) * _bits(self.name)
            return {"codes": bits, "factors": size - bits}
        return {"codes": size}

    def effort(self, parameters: Mapping[str, int]) -> Effort:
        """nprobe, breadth of the coarse search, vectors ranked again."""
        nprobe, reranked = parameters["nprobe"], parameters.get("num_reranked", 0)
        coarse = (nprobe, max(parameters["ef_search"], nprobe))
        # ranking more vectors again finds more only where the second codes are better than the first: with both signs
        # no number of them is more than another
        return Effort((*coarse, reranked), (*coarse, reranked, -reranked))

    def search(self, queries: Shaped[np.ndarray, "queries dim"], k: int, **parameters: int) -> EngineResult:
        """The k nearest vectors of each query; one stage, "scan"."""
        began = time.perf_counter()
        options = ivf_parameters(parameters["nprobe"], parameters["ef_search"])
        if "num_reranked" in parameters:
            factor = max(1.0, parameters["num_reranked"] / k)
            options = _lib.IndexRefineSearchParameters(k_factor=factor, base_index_params=options)
        x = np.ascontiguousarray(queries, dtype=np.float32)
        _, ids = self._index.search(x, k, params=options)
        return EngineResult(ids, {"scan": (ids, time.perf_counter() - began)})


def built_index(
    method: str,
    num_bytes: int,
    *,
    coarse: Any,
    metric: Metric,
    training_rows: Shaped[np.ndarray, "rows dim"],
    database: Iterator[Shaped[np.ndarray, "_ dim"]],
) -> Any:
    """Train a faiss index over given lists and fill it.

    Every vector goes to its nearest centroid by squared L2, as with the codec, exactly up to EXACT_LISTS lists.

    Args:
        method: one of METHODS.
        num_bytes: of the codes of a vector.
        coarse: HNSW index over the centroids for `metric`; it is copied.
        metric: l2, ip, or cosine for rows of unit length.
        training_rows: raw vectors.
        database: raw vectors in blocks, in order; ids are positions.

    Raises:
        ValueError: too few training rows, or too few bytes for two codes.
    """
    if not _is_rabitq(method) and len(training_rows) < CODEBOOK_SIZE:
        raise ValueError(f"baseline {method} needs {CODEBOOK_SIZE} training vectors, there are {len(training_rows)}")
    if method == "ivf_pqfs_refine" and num_bytes < 2:
        raise ValueError(f"baseline {method} splits its bytes: num_bytes={num_bytes} is not enough, use 2 or more")
    second_bytes = num_bytes // 2 if method == "ivf_pqfs_refine" else 0
    transform, ivf = _empty_ivf(method, num_bytes - second_bytes, coarse, metric)
    quantizer, nearest = ivf.quantizer, _assigning(coarse, transform)
    second = _second_quantizer(second_bytes, metric, training_rows) if second_bytes else None
    # nearest by squared L2, whatever the metric of the search
    ivf.quantizer = nearest
    ivf.train(_transformed(transform, training_rows))
    if method == "ivf_rq":
        widen_beam(ivf.rq)
    for block in database:
        for start in range(0, len(block), _ADD_ROWS):
            rows = block[start : start + _ADD_ROWS]
            ivf.add(_transformed(transform, rows))
            if second is not None:
                second.add(np.ascontiguousarray(rows, dtype=np.float32))
    ivf.quantizer = quantizer
    index = ivf if transform is None else faiss.IndexPreTransform(transform, ivf)
    return index if second is None else faiss.IndexRefine(index, second)


def _empty_ivf(method: str, num_bytes: int, coarse: Any, metric: Metric) -> tuple[Any, Any]:
    """Return (transformation of vectors or None, untrained IVF index that refers to the lists)."""
    dim, num_lists = int(coarse.d), int(coarse.ntotal)
    number = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    num_codes = {"ivf_pq": num_bytes, "ivf_pqfs": 2 * num_bytes, "ivf_pqfs_refine": 2 * num_bytes}.get(method, 1)
    transform: Any = None
    if _is_rabitq(method):
        transform = faiss.RandomRotationMatrix(dim, dim)
        transform.init(SETTINGS[method]["rotation_seed"])
    elif dim % num_codes:
        # zeros spread evenly, so that each sub-vector has nearly as many dimensions as the others
        transform = _lib.RemapDimensionsTransform(dim, -(-dim // num_codes) * num_codes, True)
    quantizer = faiss.clone_index(coarse)
    if transform is not None:
        quantizer = hnsw_index(transform.apply(coarse.reconstruct_n(0, num_lists)), metric)
        dim = int(transform.d_out)
    if _is_rabitq(method):
        ivf: Any = _lib.IndexIVFRaBitQFastScan(quantizer, dim, num_lists, number, _BLOCK, True, _bits(method))
        ivf.qb = SETTINGS[method]["query_bits"]
    elif method == "ivf_rq":
        norm = faiss.AdditiveQuantizer.ST_norm_qint8
        ivf = _lib.IndexIVFResidualQuantizer(quantizer, dim, num_lists, num_bytes, 8, number, norm)
        prepare_rq(ivf.rq)
    elif method == "ivf_pq":
        ivf = faiss.IndexIVFPQ(quantizer, dim, num_lists, num_codes, 8, number)
        prepare_kmeans(ivf.pq.cp, most_per_codeword=MAX_TRAINING_ROWS // CODEBOOK_SIZE)
    else:
        ivf = faiss.IndexIVFPQFastScan(quantizer, dim, num_lists, num_codes, 4, number)
        ivf.by_residual = bool(SETTINGS[method]["of_residual"])
        prepare_kmeans(ivf.pq.cp, most_per_codeword=MAX_TRAINING_ROWS // 16)
    return transform, ivf


def _second_quantizer(num_bytes: int, metric: Metric, rows: Shaped[np.ndarray, "rows dim"]) -> Any:
    number = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    second = faiss.IndexResidualQuantizer(rows.shape[1], num_bytes, 8, number)
    prepare_rq(second.rq)
    second.train(np.ascontiguousarray(rows, dtype=np.float32))
    widen_beam(second.rq)
    return second


def _assigning(coarse: Any, transform: Any) -> Any:
    """Index over the centroids that finds the nearest by squared L2, transformed as the vectors are."""
    centroids: Float32[np.ndarray, "lists dim"] = coarse.reconstruct_n(0, coarse.ntotal)
    centroids = _transformed(transform, centroids)
    if len(centroids) > EXACT_LISTS:
        graph = hnsw_index(centroids)
        graph.hnsw.efSearch = _BUILD_EF_SEARCH
        return graph
    flat = faiss.IndexFlatL2(centroids.shape[1])
    flat.add(centroids)
    return flat


def _transformed(transform: Any, x: Shaped[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n _"]:
    rows: Float32[np.ndarray, "n _"] = np.ascontiguousarray(x, dtype=np.float32)
    if transform is not None:
        rows = transform.apply(rows)
    return rows


def _is_rabitq(method: str) -> bool:
    return method.startswith("rabitq")


def _bits(method: str) -> int:
    """Of a dimension, with RaBitQ."""
    return SETTINGS[method].get("bits", 1)


def _ivf(index: Any) -> Any:
    return faiss.downcast_index(faiss.extract_index_ivf(index))
