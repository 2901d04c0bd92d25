"""The index and the data of `search`: do they belong together, and what is known of them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from qinco_lit.environment import environment
from qinco_lit.search.index import bundle as bundles
from qinco_lit.search.index.bundle import Bundle
from qinco_lit.search.points.timing import Timing
from qinco_lit.search.searcher import Searcher
from qinco_lit.threads import num_threads_in_use
from qinco_lit.vectors.rows import fingerprint


@dataclass(frozen=True)
class Inputs:
    """An index and the queries that it is measured with, checked to belong together."""

    index_dir: Path
    bundle: Bundle
    searcher: Searcher
    data: Any
    queries: Shaped[np.ndarray, "nq dim"]
    ground_truth: Int64[np.ndarray, "nq _"]


def open_inputs(
    index_dir: Path, data: Any, num_queries: int | None, *, mmap: bool, num_threads: int | None, precision: str
) -> Inputs:
    """Load the index, open the data set's files and check that they fit.

    Raises:
        FileNotFoundError: no index, or a file of the data set is missing.
        ValueError: no queries, or an index of other vectors, or with ids of its own.
    """
    bundle = bundles.load(index_dir, mmap=mmap)
    data.prepare_data()
    data.setup("test")
    dim, num_database = int(data.database.shape[1]), int(data.database.shape[0])
    if data.queries is None:
        raise ValueError(f"data set {data.name} has no queries, so no recall: give data.queries=FILE")
    if bundle.codec.dim != dim:
        raise ValueError(f"{index_dir} holds vectors of dimension {bundle.codec.dim}, data set {data.name} has {dim}")
    if (bundle.config.get("inputs") or {}).get("ids") is not None:
        raise ValueError(
            f"{index_dir} was built with ids=FILE: recall needs positions in the database, which the true neighbours "
            "are; measure an index of the same codes without ids="
        )
    if bundle.metric != data.metric:
        raise ValueError(
            f"{index_dir} was built for metric={bundle.metric}, data set {data.name} has data.metric={data.metric}"
        )
    searcher = Searcher(bundle, num_threads=num_threads, precision=precision)
    if len(searcher) != num_database:
        raise ValueError(
            f"{index_dir} holds {len(searcher):,} vectors, the database of {data.name} has {num_database:,}: recall"
            " needs an index of this database"
        )
    return Inputs(
        index_dir=index_dir,
        bundle=bundle,
        searcher=searcher,
        data=data,
        queries=np.asarray(data.queries[: num_queries or len(data.queries)]),
        ground_truth=np.asarray(data.ground_truth[: num_queries or len(data.queries)]),
    )


def circumstances(inputs: Inputs, timing: Timing, *, mmap: bool) -> dict[str, Any]:
    """What all points of a file share: they can be compared, and need not be measured again."""
    facts = environment()
    return {
        "index": _checksum(inputs.bundle),
        "data": inputs.data.name,
        "queries": fingerprint(inputs.queries),
        "ground_truth": fingerprint(inputs.ground_truth),
        "threads": ", ".join(f"{name} {number}" for name, number in num_threads_in_use().items()),
        "recall_at": list(timing.recall_at),
        "batch_size": timing.batch_size,
        "warmup": timing.warmup,
        "repeats": timing.repeats,
        "latency_queries": timing.latency_queries,
        "mmap": mmap,
        "precision": inputs.searcher.precision,
        "faiss": facts["versions"]["faiss-cpu"],
        "processor": facts["hardware"]["processor"],
    }


def _checksum(bundle: Bundle) -> str:
    """Hash over the checksums of an index's parts."""
    return hashlib.blake2b(json.dumps(bundle.config["parts"], sort_keys=True).encode(), digest_size=8).hexdigest()


def index_facts(inputs: Inputs) -> dict[str, Any]:
    """What `search.json` says of the index."""
    bundle = inputs.bundle
    return {
        "path": str(inputs.index_dir),
        "dim": bundle.codec.dim,
        "metric": bundle.metric,
        "num_vectors": len(inputs.searcher),
        "num_lists": inputs.searcher.num_lists,
        "bits_per_vector": bundle.codec.bits_per_vector,
        "model": bundle.codec.quantizer.config,
        "pairwise_bytes": None if bundle.pairwise is None else int(bundle.pairwise.num_bytes),
    }


def data_facts(inputs: Inputs) -> dict[str, Any]:
    """What `search.json` says of the data set."""
    data = inputs.data
    return {
        "name": data.name,
        "dim": inputs.bundle.codec.dim,
        "metric": data.metric,
        "num_train": int(data.train_vectors.shape[0]),
        "num_database": int(data.database.shape[0]),
        "num_queries": len(inputs.queries),
    }
