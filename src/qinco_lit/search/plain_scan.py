"""The lists of a faiss index as they are: what is in them, and faiss' own scan, for lists that stay on disk."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import faiss
import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, Integer, UInt8

_faiss: Any = faiss  # its stubs miss much of what is used here
_BLOCK_ROWS = 32_768
_SAMPLED_LISTS, _SAMPLED_ROWS = 64, 16  # rows of a list, more where there are fewer lists


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

    def of(self, queries: Int64[np.ndarray, " some"]) -> "Candidates":
        """Those of some of the queries."""
        return Candidates(*(column[queries] for column in self))

    @classmethod
    def of_parts(cls, parts: "Sequence[Candidates]", size: int, *, inner_product: bool) -> "Candidates":
        """The `size` best of shortlists of the same queries in parts of an index, each of the part's `size` best."""
        scores, ids, list_ids, codes = (np.concatenate(column, axis=1) for column in zip(*parts, strict=True))
        # the nearest of one list in the order of the parts, as where these are merged; what holds no vector comes last
        order = np.lexsort((list_ids, -scores if inner_product else scores, ids < 0), axis=1)[:, :size]
        rows = np.arange(len(order))[:, None]
        return cls(scores[rows, order], ids[rows, order], list_ids[rows, order], codes[rows, order])


def list_entries(
    lists: Any, numbers: Iterable[int] | None = None
) -> Iterator[tuple[int, UInt8[np.ndarray, "n bytes"], Int64[np.ndarray, " n"]]]:
    """Yield the number of each list that is not empty, with views of its codes and ids: good until the list changes.

    `numbers` are those of the lists that are looked at; None: all.
    """
    for number in range(lists.nlist) if numbers is None else numbers:
        if size := lists.list_size(number):
            packed = _faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).reshape(size, -1)
            yield number, packed, _faiss.rev_swig_ptr(lists.get_ids(number), size)


def sampled_entries(lists: Any) -> tuple[Int32[np.ndarray, " n"], UInt8[np.ndarray, "n bytes"]]:
    """List ids and stored codes of some vectors: the first ones of lists that are evenly spaced."""
    some, most = _sampled(lists.nlist)
    found = [(number, packed[:most]) for number, packed, _ in list_entries(lists, some)]
    sizes = [len(packed) for _, packed in found]
    list_ids = np.repeat(np.array([number for number, _ in found], dtype=np.int32), sizes)
    nothing = np.empty((0, lists.code_size), dtype=np.uint8)
    return list_ids, np.concatenate([nothing, *(packed for _, packed in found)])


def joined_samples(
    samples: Sequence[tuple[Int32[np.ndarray, " _"], Integer[np.ndarray, "_ steps"]]], num_lists: int
) -> tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"]]:
    """What a sample of the lists would be that those of these samples are merged into, one after the other."""
    list_ids, codes = map(np.concatenate, zip(*samples, strict=True))
    order = np.argsort(list_ids, kind="stable")
    _, first, sizes = np.unique(list_ids[order], return_index=True, return_counts=True)
    places = np.arange(len(order)) - np.repeat(first, sizes)
    kept = order[places < _sampled(num_lists)[1]]
    return list_ids[kept], codes[kept]


def _sampled(num_lists: int) -> tuple[range, int]:
    """Lists that are sampled, and the most rows of each."""
    some = range(0, num_lists, -(-num_lists // _SAMPLED_LISTS))
    return some, -(-_SAMPLED_LISTS * _SAMPLED_ROWS // len(some))


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


def unpacked_codes(packed: UInt8[np.ndarray, "n bytes"], num_steps: int, bits: int) -> Integer[np.ndarray, "n steps"]:
    """Codes of so many bits that bytes begin with: uint8, or uint16 for more than 8 bits."""
    if bits == 8:
        return packed[:, :num_steps].copy()
    used = np.ascontiguousarray(packed[:, : -(-num_steps * bits // 8)])
    codes = _faiss.unpack_bitstrings(used, num_steps, bits)
    return np.asarray(codes, dtype=np.uint8 if bits < 8 else np.uint16)


def in_blocks(lists: Iterable[Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Join (list_ids, codes, ids) of many short lists into blocks."""
    waiting: list[Any] = []
    size = 0
    for part in lists:
        waiting.append(part)
        size += len(part[2])
        if size >= _BLOCK_ROWS:
            yield _joined(waiting)
            waiting, size = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Any]) -> tuple[Any, Any, Any]:
    list_ids, codes, ids = map(np.concatenate, zip(*parts, strict=True))
    return list_ids, codes, ids


class PlainScan:
    """Lists of the plain faiss index as they are: what `AdditiveScan` finds, in more time and no memory of its own.

    Args:
        index: IndexIVFResidualQuantizer.
    """

    def __init__(self, index: Any) -> None:
        self.index, self.by_residual = index, bool(index.by_residual)
        self.centroids = centroids_of(_faiss.downcast_index(index.quantizer))
        self.inner_product = index.metric_type == faiss.METRIC_INNER_PRODUCT
        self.num_steps, self._bits = int(index.rq.M), int(faiss.vector_to_array(index.rq.nbits)[0])
        self._list_id_bytes = int(index.coarse_code_size())

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def entry_bytes(self) -> int:
        """Size of a vector on the disk: codes, norm and id."""
        return int(self.index.code_size) + 8

    def search(
        self, queries: Float[np.ndarray, "queries dim"], size: int, *, nprobe: int, ef_search: int
    ) -> Candidates:
        """As `AdditiveScan.search`; scores are off by what faiss' 8-bit norms are."""
        parameters = ivf_parameters(min(nprobe, int(self.index.nlist)), ef_search)
        scores, ids, found = self.index.search_and_return_codes(
            np.ascontiguousarray(queries, dtype=np.float32), size, include_listnos=True, params=parameters
        )
        found = found.reshape(-1, found.shape[-1])
        list_ids = as_list_ids(found[:, : self._list_id_bytes]).reshape(ids.shape)
        codes = unpacked_codes(found[:, self._list_id_bytes :], self.num_steps, self._bits).reshape(
            *ids.shape, self.num_steps
        )
        missing = ids < 0
        codes[missing], list_ids[missing] = 0, 0
        scores[missing] = -np.inf if self.inner_product else np.inf
        return Candidates(scores, ids, list_ids, codes)

    def sample(self) -> tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"]]:
        """List ids and codes of some vectors, list by list."""
        list_ids, packed = sampled_entries(self.index.invlists)
        return list_ids, unpacked_codes(packed, self.num_steps, self._bits)

    def contents(
        self,
    ) -> Iterator[tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"], Int64[np.ndarray, " n"]]]:
        """Yield (list_ids, codes, ids) of all vectors, list by list."""
        for number, packed, ids in list_entries(self.index.invlists):
            yield np.full(len(ids), number, np.int32), unpacked_codes(packed, self.num_steps, self._bits), ids.copy()
