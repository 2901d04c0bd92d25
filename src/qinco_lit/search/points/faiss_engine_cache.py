"""Trained and filled faiss indexes, kept on disk: they depend on the data, the lists and the rate, not on our index."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32

from qinco_lit.atomic import replacing
from qinco_lit.progress import Progress
from qinco_lit.search.points import faiss_engines
from qinco_lit.search.points.faiss_engines import FaissEngine, built_index
from qinco_lit.vectors.neighbours import Metric
from qinco_lit.vectors.rows import Matrix, fingerprint, spaced_rows

_READ_BYTES = 64 << 20


@dataclass(frozen=True)
class CachedEngine:
    """A faiss engine and the facts of its training.

    Attributes:
        engine: ready to search.
        settings: how it was trained.
        num_training_rows: of how many rows.
        build_s: seconds of training and filling, at the time.
        from_cache: whether it was there already.
    """

    engine: FaissEngine
    settings: dict[str, int]
    num_training_rows: int
    build_s: float
    from_cache: bool


class EngineBuilder:
    """Makes the faiss engines of one data set, with the lists of one index.

    Args:
        coarse: HNSW index over the centroids for `metric`.
        metric: l2, ip, or cosine for rows of unit length.
        train_vectors: evenly spaced rows of them are trained on, MAX_TRAINING_ROWS at most.
        database: what is searched; ids are positions. All of it is read once for its fingerprint.
        num_bytes: of the codes of a vector.
        cache_dir: a folder per index is made in it; the key is a hash of the training rows, the database, the
            centroids, the method with its settings, the rate and the version of faiss.
    """

    def __init__(
        self,
        *,
        coarse: Any,
        metric: Metric,
        train_vectors: Matrix,
        database: Matrix,
        num_bytes: int,
        cache_dir: Path,
    ) -> None:
        self._coarse, self._metric, self._database = coarse, metric, database
        self._num_bytes, self._cache_dir = num_bytes, cache_dir
        self._rows = spaced_rows(train_vectors, faiss_engines.MAX_TRAINING_ROWS)
        centroids: Float32[np.ndarray, "lists dim"] = coarse.reconstruct_n(0, coarse.ntotal)
        self._data = {
            "metric": metric,
            "training_rows": fingerprint(self._rows),
            "database": fingerprint(database),
            "centroids": fingerprint(centroids),
            "num_bytes": num_bytes,
            "faiss": str(faiss.__version__),
        }

    def engine(
        self, method: str, *, nprobe: Sequence[int], ef_search: Sequence[int], progress: Progress
    ) -> CachedEngine:
        """Take an engine from the cache, or train and fill it and keep it there; `progress` is told what is done.

        Raises:
            ValueError: see `built_index`.
        """
        settings = faiss_engines.SETTINGS[method]
        identity = {"method": method, "settings": settings, **self._data}
        key = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()
        folder = self._cache_dir / f"{method}-{self._num_bytes}-{key}"
        index_path, facts_path = folder / "index.faiss", folder / "facts.json"
        from_cache = facts_path.is_file()
        if not from_cache:
            began = time.perf_counter()
            index = self._built(method, progress)
            facts = {**identity, "build_s": time.perf_counter() - began}
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(index_path) as temporary:
                faiss.write_index(index, str(temporary))
            # the facts come last: where they are, the index is complete
            with replacing(facts_path) as temporary:
                temporary.write_text(json.dumps(facts, indent=2) + "\n")
        progress.start(f"{method}: reading the index", None)
        # also right after training: what is measured is what a later run loads
        engine = FaissEngine(method, faiss.read_index(str(index_path)), nprobe=nprobe, ef_search=ef_search)
        build_s = float(json.loads(facts_path.read_text())["build_s"])
        return CachedEngine(engine, settings, len(self._rows), build_s, from_cache)

    def _built(self, method: str, progress: Progress) -> Any:
        num_rows, dim = (int(size) for size in self._database.shape)
        step = max(1, _READ_BYTES // (4 * dim))

        def blocks() -> Iterator[np.ndarray]:
            progress.start(f"{method}: filling the lists", num_rows, unit="vectors")
            for start in range(0, num_rows, step):
                yield np.asarray(self._database[start : start + step])
                progress.reach(min(start + step, num_rows))

        progress.start(f"{method}: training", None)
        return built_index(
            method,
            self._num_bytes,
            coarse=self._coarse,
            metric=self._metric,
            training_rows=self._rows,
            database=blocks(),
        )
