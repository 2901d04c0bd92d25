"""The additive stage by faiss' own scan: for lists that stay on disk, mapped into memory."""

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float, Int32, Int64, Integer

from qinco_lit.search.columns import unpacked_codes
from qinco_lit.search.scan import Candidates, as_list_ids, ivf_parameters, list_entries


class PlainScan:
    """Lists of the plain faiss index as they are: what `AdditiveScan` finds, in more time and no memory of its own.

    Args:
        index: IndexIVFResidualQuantizer.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
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

    def contents(
        self, *, empty: bool = False
    ) -> Iterator[tuple[Int32[np.ndarray, " n"], Integer[np.ndarray, "n steps"], Int64[np.ndarray, " n"]]]:
        """Yield (list_ids, codes, ids) of all vectors, list by list; `empty` gives up a list's memory after it."""
        for number, packed, ids in list_entries(self.index.invlists):
            yield np.full(len(ids), number, np.int32), unpacked_codes(packed, self.num_steps, self._bits), ids.copy()
            if empty:
                self.index.invlists.resize(number, 0)
