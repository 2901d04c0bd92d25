"""Search an index: coarse lists, additive distances, the pairwise decoder, then the full decoder."""

import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import faiss
import numpy as np
from jaxtyping import Float32, Int64

from qinco_lit.devices import default_torch, threads
from qinco_lit.locks import SharedLock
from qinco_lit.options import Count, checked
from qinco_lit.search.answers import AnswersQueries
from qinco_lit.search.index.bundle import POSITIONS, Bundle, load_to_search, save
from qinco_lit.search.index.id_set import IdSet
from qinco_lit.search.parameters import (
    ResolvedParameters,
    as_ids,
    as_matrix,
    checked_new_ids,
    next_ids,
    taken_id,
    whole_number,
)
from qinco_lit.search.pipeline import FullDecoders, Pipeline, SearchTrace
from qinco_lit.search.plain_scan import PlainScan
from qinco_lit.search.scan import AdditiveScan
from qinco_lit.vectors.neighbours import Metric
from qinco_lit.vectors.rows import unit_rows


class Searcher(AnswersQueries):
    """An index in memory, or mapped from disk, that answers queries.

    Any number of threads may search, add, remove and save. A call sees all of a change or nothing of it: what changes
    the lists waits for the searches that run, and those that come wait for it, but not for what it encodes or saves.

    Args:
        bundle: what `qinco index` wrote, loaded; the searcher takes its lists over.
        num_threads: among which the queries of a search are shared, with one core each; None: as many as torch has
            where `search` is called. Results do not depend on it. A search sets nothing of the process, and searches at
            the same time do not disturb each other.
        precision: of the full decoder, names as of `Codec`. `auto` gives the results of float32, in less time where
            bfloat16 is fast: all candidates are decoded in bfloat16, the best of them again in float32 (`screened`).

    Raises:
        ValueError: an unknown precision, num_threads below 1, a bundle whose lists another searcher has.
    """

    @default_torch()
    def __init__(self, bundle: Bundle, *, num_threads: int | None = None, precision: str = "auto") -> None:
        if not isinstance(bundle, Bundle):
            raise ValueError(f"bundle is of type {type(bundle).__name__}: Searcher.load(DIR) reads a folder")
        if bundle.index is None:
            raise ValueError("a Searcher has taken the lists of this bundle: use it, or load again")
        self.num_threads = None if num_threads is None else whole_number("num_threads", num_threads)
        self._bundle = replace(bundle)
        self._known_ids: IdSet | None = None
        self._positions = bundle.has_positions
        # taken in this order: saves, changes, lists
        self._saves, self._changes, self._lists = threading.Lock(), threading.Lock(), SharedLock()
        self._scan: AdditiveScan | PlainScan
        decoders = FullDecoders(bundle.codec, precision)
        if bundle.is_mapped and bundle.stays_mapped:
            self._scan = PlainScan(bundle.index)
        else:
            with threads(self.num_threads):
                self._scan = AdditiveScan.taking_over(bundle.index, bundle.additive.codebooks)
            bundle.index = None
        self._pipeline = Pipeline(self._bundle, self._scan, decoders)

    @classmethod
    @checked
    def load(
        cls,
        directory: str | Path,
        *,
        num_threads: Count | None = None,
        precision: str = "auto",
        mmap: bool = False,
        device: str = "cpu",
    ) -> "Searcher":
        """Read an index directory; `num_threads` and `precision` are those of the class.

        Args:
            directory: what `qinco index` wrote.
            mmap: leave the lists on disk (lists built with on_disk=true always are): slower, for sets beyond RAM.
            device: of the full decoder; the other stages run on the CPU.

        Raises:
            FileNotFoundError: no index there.
            ValueError: parts that are damaged or do not belong together; those of the class.
        """
        bundle = load_to_search(directory, mmap=mmap, device=device)
        return cls(bundle, num_threads=num_threads, precision=precision)

    def __len__(self) -> int:
        return len(self._scan)

    def __repr__(self) -> str:
        size = "+".join(str(each) for each in self.bytes_per_vector.values())
        what = f"{len(self)} vectors, {size} bytes each, dim {self.dim}, lists {self.num_lists}, {self.metric}"
        return f"Searcher({what})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Searcher is not pickled, its lists may be larger than the memory: give processes its folder, and let "
            "each call Searcher.load(DIR, mmap=True), which shares them"
        )

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._bundle.codec.dim

    @property
    def coarse(self) -> Any:
        """The faiss index (HNSW) over the centroids, not to be changed."""
        return faiss.downcast_index(self._bundle.index.quantizer)

    @property
    def num_lists(self) -> int:
        """Lists of the coarse quantizer."""
        return int(self._bundle.index.nlist)

    @property
    def num_steps(self) -> int:
        """Codes per vector."""
        return self._bundle.codec.num_steps

    @property
    def metric(self) -> Metric:
        """What is searched for: the smallest squared L2 (`l2`), the largest inner product (`ip`) or `cosine`."""
        return self._bundle.metric

    @property
    def precision(self) -> str:
        """Of the full decoder on its device: float32, screened or bfloat16."""
        return self._pipeline.precision

    @property
    def bytes_per_vector(self) -> dict[str, int]:
        """What a vector takes in the lists: its codes, what is added for the norm, its id."""
        codes = -(-self._bundle.codec.bits_per_vector // 8)
        return {"codes": codes, "norm": self._scan.entry_bytes - 8 - codes, "id": 8}

    @property
    def has_pairwise(self) -> bool:
        """Whether there is a pairwise decoder."""
        return self._bundle.pairwise is not None

    @property
    def pipeline(self) -> Pipeline:
        """The stages of a search, which run alone where the index is a part of one (`parts.py`)."""
        return self._pipeline

    @property
    def ids_are_positions(self) -> bool:
        """Whether id i is row i of the vectors that the index was built of and of those that were added since, in turn.

        True neighbours are positions: with other ids recall cannot be told from them.
        """
        if isinstance(self._scan, PlainScan):
            return self._positions
        return self._positions and self._scan.largest_id == len(self._scan) - 1

    @property
    def bundle(self) -> Bundle:
        """What was loaded, without its lists."""
        return self._bundle

    def _traced(self, queries: Float32[np.ndarray, "queries dim"], parameters: ResolvedParameters) -> SearchTrace:
        return self._pipeline.search(queries, parameters, self.num_threads)

    def _reading(self) -> AbstractContextManager[None]:
        return self._lists.shared()

    # -- changing the index -------------------------------------------------------------------------------------------

    @default_torch()
    def add(self, x: Any, ids: Any = None) -> Int64[np.ndarray, " n"]:
        """Encode vectors and add them; `save` makes it last. Returns their ids.

        Args:
            x: (n, dim), float32 or uint8.
            ids: (n,) integers from 0 to 2^63 - 1 that the index does not have; None counts on from its largest.

        Raises:
            ValueError: bad vectors or ids (nothing is added then), or lists that are mapped from disk.
        """
        scan = self._writable()
        x = as_matrix(x, self.dim, what="vectors", owner="codec")
        with self._changes:  # what is refused is not encoded
            new = self._new_ids(ids, len(x), scan)
        if len(x) == 0:
            return new
        rows = unit_rows(x) if self.metric == "cosine" else x
        with threads(self.num_threads):
            list_ids, codes = self._bundle.encode(rows)
        with self._changes:
            new = self._new_ids(ids, len(x), scan)  # of what is there now
            are_next = np.array_equal(new, np.arange(len(scan), len(scan) + len(new)))
            with self._lists.alone():
                scan.add(list_ids, codes, new)
            self._positions = self._positions and are_next
            if self._known_ids is not None:
                self._known_ids.add(new)
        return new

    def remove(self, ids: Any) -> int:
        """Take vectors out of the lists; returns how many there were.

        Args:
            ids: one integer or (n,) of them; those that are not there do not matter.

        Raises:
            ValueError: anything but integers (nothing is taken out then), or lists that are mapped from disk.
        """
        scan = self._writable()
        gone = as_ids(ids)
        with self._changes, threads(self.num_threads):
            with self._lists.alone():
                number = scan.remove(gone)
            self._positions = self._positions and not number
            if self._known_ids is not None:
                self._known_ids.remove(gone)
        return number

    @checked
    def save(self, directory: str | Path) -> None:
        """Write the index as it is now; a directory under that name is replaced when all of it is written.

        The lists are in memory a second time meanwhile. Searches go on; changes wait until the lists are copied.
        """
        scan = self._writable()
        with self._saves, scan.as_faiss(self._changes) as index:
            config = {**self._bundle.config, POSITIONS: self.ids_are_positions}
            save(replace(self._bundle, index=index, config=config), Path(directory))

    def _writable(self) -> AdditiveScan:
        if isinstance(self._scan, AdditiveScan):
            return self._scan
        raise ValueError("the lists are mapped from disk: they can be searched, not changed or saved")

    def _new_ids(self, ids: Any, number: int, scan: AdditiveScan) -> Int64[np.ndarray, " n"]:
        """The ids of vectors to add; those that the index has are read only where one of these might be among them."""
        if ids is None:
            return next_ids(number, scan.largest_id)
        new = checked_new_ids(ids, number)
        if number and new.min() <= scan.largest_id:
            if self._known_ids is None:
                self._known_ids = IdSet(scan.ids())
            if (there := self._known_ids.has(new)).any():
                raise taken_id(int(new[there][0]), "is in the index already")
        return new
