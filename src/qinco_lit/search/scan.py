"""The additive stage: scan the lists of an additive quantizer with one look-up table per query.

faiss' own scan of `IVF,RQ` computes look-up tables for every pair of query and list. But with
x_hat = c + sum_m A_m[i_m], the centroid plus a codeword of each additive codebook,

    |q - x_hat|^2 = |q|^2 - 2 (<q, c> + sum_m <q, A_m[i_m]> - |x_hat|^2 / 2)

and in the brackets only <q, c> depends on the list: the rest is a product quantizer's inner product, over codebooks
that all see the whole of q, with the squared norm of x_hat as two more bytes of code. So faiss' `IndexIVFPQ` can scan
them with one table per query (benchmarks/RESULTS.md, "Large-scale search": ten times as fast).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, Integer, UInt8
from torch.nn import functional as F

from qinco_lit.search.columns import CodeColumns

_faiss: Any = faiss  # its stubs miss much of what is used here
_NORM_BITS = 16
_BLOCK_ROWS = 32_768
_QUERY_BYTES = 32 << 20  # of the queries that faiss sees, which are several times as wide


class Candidates(NamedTuple):
    """Shortlists of a batch of queries, best first; places without a vector have id -1.

    Attributes:
        scores: squared L2 to the additive reconstruction, or the inner product with it.
        ids: of the vectors.
        list_ids: of the lists they are in.
        codes: of the vectors.
    """

    scores: Float32[np.ndarray, "queries size"]
    ids: Int64[np.ndarray, "queries size"]
    list_ids: Int32[np.ndarray, "queries size"]
    codes: Integer[np.ndarray, "queries size steps"]


def list_entries(lists: Any) -> Iterator[tuple[int, UInt8[np.ndarray, "n bytes"], Int64[np.ndarray, " n"]]]:
    """Yield the number of each list that is not empty, with views of its codes and ids: good until the list changes."""
    for number in range(lists.nlist):
        if size := lists.list_size(number):
            packed = _faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).reshape(size, -1)
            yield number, packed, _faiss.rev_swig_ptr(lists.get_ids(number), size)


def as_list_ids(stored: UInt8[np.ndarray, "n bytes"]) -> Int32[np.ndarray, " n"]:
    """List ids from the few bytes, least significant first, that faiss puts in front of a code."""
    padded = np.zeros((len(stored), 4), np.uint8)
    padded[:, : stored.shape[1]] = stored
    return np.asarray(padded.view("<i4")[:, 0], dtype=np.int32)


def ivf_parameters(nprobe: int, ef_search: int) -> Any:
    """What faiss is told at a search: lists visited, and the breadth of the search for them in the HNSW graph."""
    graph = _faiss.SearchParametersHNSW(efSearch=max(ef_search, nprobe))
    return _faiss.SearchParametersIVF(nprobe=nprobe, quantizer_params=graph)


def centroids_of(coarse: Any) -> Float32[np.ndarray, "lists dim"]:
    """The centroids in the storage of an HNSW index, not copied; they live as long as it does."""
    storage = _faiss.downcast_index(coarse.storage)
    return np.asarray(_faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d).reshape(-1, storage.d))


class AdditiveScan:
    """Lists of codes in memory, searched by their additive reconstruction.

    Args:
        coarse: faiss index (HNSW) over the centroids in raw space; it is kept.
        codebooks: of the additive decoder, in raw space.
        inner_product: look for the largest inner product instead of the smallest squared L2.
    """

    def __init__(
        self, coarse: Any, codebooks: Float32[np.ndarray, "steps codebook dim"], *, inner_product: bool
    ) -> None:
        self.codebooks, self.inner_product = codebooks, inner_product
        self.num_steps, self.codebook_size, self.dim = codebooks.shape
        self._columns = CodeColumns(codebooks)
        self.centroids = centroids_of(coarse)
        # products and norms are of vectors around the middle of the centroids, where 16 bits resolve a norm better
        middle = self.centroids.mean(0, dtype=np.float64)
        self._origin = (middle * (not inner_product)).astype(np.float32)
        self._norm_digits = 0 if inner_product else -(-_NORM_BITS // self._columns.bits)
        # no vector, whenever it is added, is longer than the longest centroid and codewords together
        longest = np.linalg.norm(self.centroids - self._origin, axis=1).max()
        longest += np.linalg.norm(codebooks, axis=2).max(axis=1).sum()
        self._norm_step = max(float(longest) ** 2, 1e-30) / (1 << self._columns.bits * self._norm_digits)
        self._index = self._scanner(coarse)
        self._list_id_bytes = int(self._index.coarse_code_size())

    def _scanner(self, coarse: Any) -> Any:
        """Return an inner-product IVFPQ whose sub-vectors are the query once per column, then ones for the norm."""
        bits, codes = self._columns.bits, self._columns.number
        columns = codes + self._norm_digits
        tables = np.zeros((columns, 1 << bits, self.dim), np.float32)
        tables[:codes] = self._columns.tables()
        for digit in range(self._norm_digits):
            weight = self._norm_step * float(1 << bits * digit)
            tables[codes + digit, :, 0] = -0.5 * weight * np.arange(1 << bits)
        # the coarse index sees the first sub-vector, back at its place
        first = _faiss.RemapDimensionsTransform(columns * self.dim, self.dim, False)
        _faiss.copy_array_to_vector(np.arange(self.dim, dtype=np.int32), first.map)
        back = _faiss.CenteringTransform(self.dim)
        _faiss.copy_array_to_vector(-self._origin, back.mean)
        back.is_trained = True
        moved = _faiss.IndexPreTransform(back, coarse)
        moved.prepend_transform(first)
        index = _faiss.IndexIVFPQ(moved, columns * self.dim, coarse.ntotal, columns, bits, _faiss.METRIC_INNER_PRODUCT)
        _faiss.copy_array_to_vector(tables.ravel(), index.pq.centroids)
        index.is_trained = True
        self._kept_for_cpp = (coarse, first, back, moved)
        return index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def entry_bytes(self) -> int:
        """Memory of a vector: codes, norm and id."""
        return int(self._index.code_size) + 8

    def list_sizes(self) -> Int64[np.ndarray, " lists"]:
        """How many vectors each list holds."""
        lists = self._index.invlists
        return np.array([lists.list_size(number) for number in range(lists.nlist)], dtype=np.int64)

    # -- content ------------------------------------------------------------------------------------------------------

    def add(
        self,
        list_ids: Integer[np.ndarray, " n"],
        codes: Integer[np.ndarray, "n steps"],
        ids: Int64[np.ndarray, " n"],
    ) -> None:
        """Put vectors into their lists."""
        for start in range(0, len(ids), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            packed = self._packed(list_ids[block], codes[block])
            self._index.add_sa_codes(packed, np.ascontiguousarray(ids[block], dtype=np.int64))

    def remove(self, ids: Int64[np.ndarray, " n"]) -> int:
        """Take vectors out; returns how many there were."""
        return int(self._index.remove_ids(_faiss.IDSelectorBatch(np.ascontiguousarray(ids, dtype=np.int64))))

    def contents(
        self,
    ) -> Iterator[tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"], Int64[np.ndarray, " n"]]]:
        """Yield (list_ids, codes, ids) of all vectors, list by list."""
        for number, packed, ids in list_entries(self._index.invlists):
            yield np.full(len(ids), number, np.int32), self._columns.codes(packed), ids.copy()

    def _packed(
        self, list_ids: Integer[np.ndarray, " n"], codes: Integer[np.ndarray, "n steps"]
    ) -> UInt8[np.ndarray, "n bytes"]:
        """List id, codes and norm in the bytes of faiss."""
        columns, bits = self._columns.of_codes(codes), self._columns.bits
        if self._norm_digits:
            levels = self._norms(list_ids, codes) / self._norm_step
            level = np.clip(np.rint(levels), 0, (1 << bits * self._norm_digits) - 1).astype(np.int64)
            digits = [level >> bits * digit & (1 << bits) - 1 for digit in range(self._norm_digits)]
            columns = np.column_stack([columns, *digits])
        number = np.asarray(list_ids, dtype="<i8").view(np.uint8).reshape(len(list_ids), 8)[:, : self._list_id_bytes]
        return np.hstack([number, self._columns.packed(columns)])

    def _norms(
        self, list_ids: Integer[np.ndarray, " n"], codes: Integer[np.ndarray, "n steps"]
    ) -> Float32[np.ndarray, " n"]:
        rows = torch.from_numpy(codes.astype(np.int64)) + self.codebook_size * torch.arange(self.num_steps)
        residual = F.embedding_bag(rows, torch.from_numpy(self.codebooks).flatten(0, 1), mode="sum")
        x_hat = residual + torch.from_numpy(self.centroids[list_ids] - self._origin)
        norms: Float32[np.ndarray, " n"] = x_hat.square().sum(1).numpy()
        return norms

    # -- search -------------------------------------------------------------------------------------------------------

    def search(
        self, queries: Float[np.ndarray, "queries dim"], size: int, *, nprobe: int, ef_search: int
    ) -> Candidates:
        """The `size` best vectors of each query in its `nprobe` nearest lists; more threads change nothing.

        Args:
            queries: raw space.
            size: of the shortlists.
            nprobe: lists visited.
            ef_search: breadth of the search for them in the HNSW graph, raised to nprobe.
        """
        parameters = ivf_parameters(min(nprobe, len(self.centroids)), ef_search)
        rows = max(1, _QUERY_BYTES // (4 * self._index.d))
        parts = [self._search(queries[i : i + rows], size, parameters) for i in range(0, max(1, len(queries)), rows)]
        return parts[0] if len(parts) == 1 else Candidates(*map(np.concatenate, zip(*parts, strict=True)))

    def _search(self, queries: Float[np.ndarray, "queries dim"], size: int, parameters: Any) -> Candidates:
        around = (queries - self._origin).astype(np.float32)
        codes = self._columns.number
        wide = np.zeros((len(queries), codes + self._norm_digits, self.dim), np.float32)
        wide[:, :codes] = around[:, None]
        wide[:, codes:, 0] = 1
        scores, ids, found = self._index.search_and_return_codes(
            wide.reshape(len(queries), self._index.d), size, include_listnos=True, params=parameters
        )
        found = found.reshape(-1, found.shape[-1])
        list_ids = as_list_ids(found[:, : self._list_id_bytes]).reshape(ids.shape)
        codes = self._columns.codes(found[:, self._list_id_bytes :]).reshape(*ids.shape, self.num_steps)
        missing = ids < 0
        codes[missing], list_ids[missing] = 0, 0
        scores[missing] = -np.inf
        if not self.inner_product:
            with np.errstate(over="ignore", invalid="ignore"):  # of huge queries; what follows ranks anew
                scores = np.einsum("nd,nd->n", around, around)[:, None] - 2 * scores
        return Candidates(scores, ids, list_ids, codes)
