"""The additive stage: scan the lists of an additive quantizer with one look-up table per query.

faiss' own scan of `IVF,RQ` computes look-up tables for every pair of query and list. But with
x_hat = c + sum_m A_m[i_m], the centroid plus a codeword of each additive codebook,

    |q - x_hat|^2 = |q|^2 - 2 (<q, c> + sum_m <q, A_m[i_m]> - |x_hat|^2 / 2)

and in the brackets only <q, c> depends on the list: the rest is a product quantizer's inner product, over codebooks
that all see the whole of q, with the squared norm of x_hat as two more bytes of code. So faiss' `IndexIVFPQ` can scan
them with one table per query (benchmarks/RESULTS.md, "Large-scale search": ten times as fast).

Where codes say all of a vector, not what its centroid leaves, there is no c.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import faiss
import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, Integer, UInt8
from torch.nn import functional as F

from qinco_lit.search.index.faiss_index import append_codes
from qinco_lit.search.index.lists import ListRoom, drop_lists, set_room
from qinco_lit.search.plain_scan import (
    Candidates,
    PlainScan,
    as_list_ids,
    centroids_of,
    in_blocks,
    ivf_parameters,
    list_entries,
    sampled_entries,
    unpacked_codes,
)

_faiss: Any = faiss  # its stubs miss much of what is used here
_NORM_BITS = 16
_BLOCK_ROWS = 32_768
_QUERY_BYTES = 32 << 20  # of the queries that faiss sees, which are several times as wide


class CodeColumns:
    """Codes as the columns of a scan: each has a look-up table, and short codes share one, several to a byte.

    faiss scans codes of a byte three times as fast as shorter ones (26 ns a vector of 8 bytes, 80 ns of 16 codes of 4
    bits). Two codes of 4 bits are a byte, and the sum of their codewords depends on it alone: its table has 256 sums.

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


class AdditiveScan:
    """Lists of codes in memory, searched by their additive reconstruction.

    Args:
        coarse: faiss index (HNSW) over the centroids in raw space; it is kept.
        codebooks: of the additive decoder, in raw space.
        inner_product: look for the largest inner product instead of the smallest squared L2.
        by_residual: whether codes say what the centroid of their list leaves of a vector, or all of it.

    Attributes:
        largest_id: of the vectors in the lists; -1 where there are none.
    """

    def __init__(
        self,
        coarse: Any,
        codebooks: Float32[np.ndarray, "steps codebook dim"],
        *,
        inner_product: bool,
        by_residual: bool = True,
    ) -> None:
        self.inner_product, self.by_residual = inner_product, by_residual
        self.num_steps, self.codebook_size, self.dim = codebooks.shape
        self.centroids = centroids_of(coarse)
        # products and norms are of vectors around the middle of the centroids, where 16 bits resolve a norm better
        middle = self.centroids.mean(0, dtype=np.float64)
        self._origin = (middle * (not inner_product)).astype(np.float32)
        longest = 0.0
        if by_residual:
            longest = np.linalg.norm(self.centroids - self._origin, axis=1).max()
        else:  # every vector has one codeword of the first codebook
            codebooks = codebooks.copy()
            codebooks[0] -= self._origin
        self.codebooks, self._columns = codebooks, CodeColumns(codebooks)
        self._norm_digits = 0 if inner_product else -(-_NORM_BITS // self._columns.bits)
        # no vector, whenever it is added, is longer than the longest centroid and codewords together
        longest += np.linalg.norm(codebooks, axis=2).max(axis=1).sum()
        self._norm_step = max(float(longest) ** 2, 1e-30) / (1 << self._columns.bits * self._norm_digits)
        self._index = self._scanner(coarse)
        self._plain: Any = None
        self._room = ListRoom(_faiss.downcast_InvertedLists(self._index.invlists))
        self.largest_id = -1
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
        index.by_residual, index.is_trained = self.by_residual, True
        self._kept_for_cpp = (coarse, first, back, moved)
        return index

    @classmethod
    def taking_over(cls, index: Any, codebooks: Float32[np.ndarray, "steps codebook dim"]) -> "AdditiveScan":
        """The lists of a faiss index moved into a scan: in memory once where they were mapped from their file.

        Args:
            index: IndexIVFResidualQuantizer; it is left without lists, and is what `as_faiss` fills.
            codebooks: of the additive decoder, in raw space.
        """
        scan = cls(
            _faiss.downcast_index(index.quantizer),
            codebooks,
            inner_product=index.metric_type == _faiss.METRIC_INNER_PRODUCT,
            by_residual=bool(index.by_residual),
        )
        for list_ids, codes, ids in in_blocks(PlainScan(index).contents()):
            scan.add(list_ids, codes, ids)
        drop_lists(index)
        scan._plain = index
        return scan

    @contextmanager
    def as_faiss(self, unchanged: AbstractContextManager[Any]) -> Iterator[Any]:
        """The faiss index that was taken over, with a second copy of the lists inside such a block.

        Nobody may change the lists while they are copied, which is inside `unchanged`, and no two may ask for the copy.
        """
        try:
            with unchanged:
                set_room(self._plain, self.list_sizes())
                for list_ids, codes, ids in in_blocks(self.contents()):
                    append_codes(self._plain, list_ids, codes, ids)
            yield self._plain
        finally:
            drop_lists(self._plain)

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
        """Put vectors into their lists; nobody may read these meanwhile."""
        if len(ids) == 0:
            return
        self.largest_id = max(self.largest_id, int(ids.max()))
        self._room.make(list_ids)
        for start in range(0, len(ids), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            packed = self._packed(list_ids[block], codes[block])
            self._index.add_sa_codes(packed, np.ascontiguousarray(ids[block], dtype=np.int64))

    def remove(self, ids: Int64[np.ndarray, " n"]) -> int:
        """Take vectors out; returns how many there were. Nobody may read the lists meanwhile."""
        number = int(self._index.remove_ids(_faiss.IDSelectorBatch(np.ascontiguousarray(ids, dtype=np.int64))))
        if number and ids.max() >= self.largest_id:
            every = (int(left.max()) for _, _, left in list_entries(self._index.invlists))
            self.largest_id = max(every, default=-1)
        return number

    def ids(self) -> Int64[np.ndarray, " n"]:
        """Of all vectors, list by list."""
        views = [ids for _, _, ids in list_entries(self._index.invlists)]
        return np.concatenate([np.empty(0, np.int64), *views])

    def contents(
        self,
    ) -> Iterator[tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"], Int64[np.ndarray, " n"]]]:
        """Yield (list_ids, codes, ids) of all vectors, list by list."""
        for number, packed, ids in list_entries(self._index.invlists):
            yield np.full(len(ids), number, np.int32), self._columns.codes(packed), ids.copy()

    def sample(self) -> tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"]]:
        """List ids and codes of some vectors, list by list."""
        list_ids, packed = sampled_entries(self._index.invlists)
        return list_ids, self._columns.codes(packed)

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
        x_hat = F.embedding_bag(rows, torch.from_numpy(self.codebooks).flatten(0, 1), mode="sum")
        if self.by_residual:
            x_hat += torch.from_numpy(self.centroids[list_ids] - self._origin)
        norms: Float32[np.ndarray, " n"] = x_hat.square_().sum(1).numpy()
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
