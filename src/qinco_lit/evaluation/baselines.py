"""Product and additive quantizers of faiss, as what a codec is measured against: PQ, OPQ, RQ, LSQ.

All have 8 bits a code and as many codes as bytes. Dimensions that PQ and OPQ cannot divide are padded with zeros.
Trained ones and their results are kept on disk: they depend on the data and the settings, not on the codec.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Integer, Shaped, UInt8

from qinco_lit.atomic import replacing, write_atomically
from qinco_lit.faiss_quantizers import PQ_SETTINGS, RQ_SETTINGS, WORKSPACE_BYTES, prepare_kmeans, prepare_rq, widen_beam
from qinco_lit.search.points.faiss_engines import CODEBOOK_SIZE
from qinco_lit.vectors.rows import Matrix, fingerprint, spaced_rows

METHODS = ("pq", "opq", "rq", "lsq")
# The papers train OPQ and RQ on 500k vectors; the error barely falls beyond, and time grows in proportion.
MAX_TRAINING_ROWS = 500_000

# What is trained and how: recorded in results, and part of the cache's key, so that another number trains anew.
SETTINGS: dict[str, dict[str, int]] = {
    "pq": PQ_SETTINGS,
    "opq": {**PQ_SETTINGS, "rotation_iterations": 50},
    "rq": RQ_SETTINGS,
    "lsq": {"train_iterations": 25, "train_ils_iterations": 8, "encode_ils_iterations": 16},
}


class Baseline:
    """A trained faiss quantizer: vectors (n, dim) to codes (n, num_bytes) uint8 and back."""

    def __init__(self, method: str, index: Any, dim: int) -> None:
        self.method, self.dim = method, dim
        self._index = index
        self._codebooks = _use_encoding_settings(method, index)

    @classmethod
    def train(cls, method: str, x: Shaped[np.ndarray, "n dim"], num_bytes: int) -> "Baseline":
        """Train `method` at `num_bytes` bytes per vector on raw vectors; the same rows give the same quantizer.

        Raises:
            ValueError: unknown method, fewer rows than the 256 codewords of a codebook, NaN or infinity in a row.
        """
        if method not in METHODS:
            raise ValueError(f"unknown baseline {method!r}; choose from: {', '.join(METHODS)}")
        if num_bytes < 1:
            raise ValueError(f"a baseline of num_bytes={num_bytes} is impossible; use 1 or more")
        if len(x) < CODEBOOK_SIZE:
            raise ValueError(f"baseline {method} needs at least {CODEBOOK_SIZE} training vectors, there are {len(x)}")
        if not np.isfinite(x).all():
            raise ValueError(f"training vector {int(np.argmin(np.isfinite(x).all(axis=1)))} holds NaN or infinity")
        return cls(method, _trained(method, x, num_bytes), x.shape[1])

    @property
    def num_steps(self) -> int:
        """Codes per vector, which is bytes per vector."""
        return int(self._index.sa_code_size())

    @property
    def codebook_size(self) -> int:
        """Values a code can take."""
        return CODEBOOK_SIZE

    @property
    def settings(self) -> dict[str, int]:
        """How it was trained and encodes."""
        return SETTINGS[self.method]

    def encode(self, x: Shaped[np.ndarray, "n dim"]) -> UInt8[np.ndarray, "n num_steps"]:
        """Codes of raw vectors of any real dtype."""
        return np.asarray(self._index.sa_encode(_padded(x, self._index.d)))

    def decode(self, codes: UInt8[np.ndarray, "n num_steps"]) -> Float32[np.ndarray, "n dim"]:
        """Reconstructions in raw space."""
        return np.ascontiguousarray(self._index.sa_decode(codes)[:, : self.dim])

    def decode_steps(self, codes: Integer[np.ndarray, "n num_steps"]) -> Iterator[Float32[np.ndarray, "n dim"]]:
        """Reconstructions of the first 1, 2, ..., num_steps codes, for methods of which a prefix means something.

        Only RQ codes refine each other; for the others the one full reconstruction is all.
        """
        if self._codebooks is None:
            yield self.decode(codes)
            return
        x_hat = np.zeros((len(codes), self.dim), dtype=np.float32)
        for step, codebook in enumerate(self._codebooks):
            x_hat = x_hat + codebook[codes[:, step]]
            yield x_hat

    def save(self, path: Path) -> None:
        """Write the faiss index."""
        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, method: str, path: Path, dim: int) -> "Baseline":
        """Read what `save` wrote for vectors of dimension `dim`."""
        return cls(method, faiss.read_index(str(path)), dim)


def _trained(method: str, x: Shaped[np.ndarray, "n dim"], num_bytes: int) -> Any:
    num_rows, dim = x.shape
    if method == "rq":
        residual = faiss.IndexResidualQuantizer(dim, num_bytes, 8)
        prepare_rq(residual.rq, num_rows=num_rows)
        residual.train(_padded(x, dim))
        return residual
    if method == "lsq":
        local_search = faiss.IndexLocalSearchQuantizer(dim, num_bytes, 8)
        local_search.lsq.train_iters = SETTINGS[method]["train_iterations"]
        local_search.lsq.train_ils_iters = SETTINGS[method]["train_ils_iterations"]
        local_search.train(_padded(x, dim))
        return local_search
    padded_dim = -(-dim // num_bytes) * num_bytes
    rows = _padded(x, padded_dim)
    rotation = None if method == "pq" else _trained_rotation(rows, num_bytes)
    product = faiss.IndexPQ(padded_dim, num_bytes, 8)
    _prepare_kmeans(product.pq.cp, num_rows)
    product.train(rows if rotation is None else rotation.apply(rows))
    return product if rotation is None else _chain(rotation, product)


def _trained_rotation(rows: Float32[np.ndarray, "n padded_dim"], num_bytes: int) -> Any:
    rotation = faiss.OPQMatrix(rows.shape[1], num_bytes)
    rotation.niter = SETTINGS["opq"]["rotation_iterations"]
    rotation.max_train_points = len(rows)
    # a quantizer of ours, because its own would warn about few points
    quantizer = faiss.ProductQuantizer(rows.shape[1], num_bytes, 8)
    _prepare_kmeans(quantizer.cp, len(rows))
    rotation.pq = quantizer
    rotation.train(rows)
    rotation.pq = None
    return rotation


def _chain(rotation: Any, index: Any) -> Any:
    chain = faiss.IndexPreTransform(rotation, index)
    # the C++ chain deletes both with itself; Python must not do it a second time
    chain.own_fields = True
    rotation.this.disown()
    index.this.disown()
    return chain


def _prepare_kmeans(parameters: Any, num_rows: int) -> None:
    """No subsampling: all methods see all training rows."""
    prepare_kmeans(parameters, most_per_codeword=-(-num_rows // CODEBOOK_SIZE))


def _use_encoding_settings(method: str, index: Any) -> list[Float32[np.ndarray, "codebook_size dim"]] | None:
    """Set what faiss does not keep in files; returns the codebooks when a prefix of the codes can be decoded."""
    if method == "lsq":
        index.lsq.encode_ils_iters = SETTINGS[method]["encode_ils_iterations"]
    if method != "rq":
        return None
    rq = index.rq
    rq.use_beam_LUT = 1
    rq.max_mem_distances = WORKSPACE_BYTES
    widen_beam(rq)
    codebooks = faiss.vector_to_array(rq.codebooks).reshape(rq.M, CODEBOOK_SIZE, index.d)
    return list(codebooks)


def _padded(x: Shaped[np.ndarray, "n dim"], padded_dim: int) -> Float32[np.ndarray, "n padded_dim"]:
    if x.shape[1] == padded_dim:
        return np.ascontiguousarray(x, dtype=np.float32)
    padded = np.zeros((len(x), padded_dim), dtype=np.float32)
    padded[:, : x.shape[1]] = x
    return padded


@dataclass(frozen=True)
class CachedBaseline:
    """A trained baseline, the facts of its training, and the folder where it and its results are kept, if any."""

    baseline: Baseline
    num_training_rows: int
    train_s: float
    folder: Path | None

    def read_results(self, circumstances: dict[str, Any]) -> dict[str, Any] | None:
        """Return results measured under the same circumstances (data, threads, machine as plain values), or None."""
        path = self._results_path(circumstances)
        if path is None or not path.is_file():
            return None
        stored: dict[str, Any] = json.loads(path.read_text())
        results: dict[str, Any] = stored["results"]
        return results

    def write_results(self, circumstances: dict[str, Any], results: dict[str, Any]) -> None:
        """Keep results for `read_results`."""
        text = json.dumps({"circumstances": circumstances, "results": results}, indent=2)
        if (path := self._results_path(circumstances)) is not None:
            write_atomically(path, text + "\n")

    def _results_path(self, circumstances: dict[str, Any]) -> Path | None:
        return None if self.folder is None else self.folder / f"results-{_key(circumstances)}.json"


def trained_baseline(
    method: str, train_vectors: Matrix, num_bytes: int, *, max_training_rows: int, cache_dir: Path | None
) -> CachedBaseline:
    """Take a baseline from the cache, or train it on evenly spaced rows and keep it there.

    Args:
        method: one of METHODS.
        train_vectors: (n, dim) raw vectors.
        num_bytes: rate, bytes per vector.
        max_training_rows: rows used at most.
        cache_dir: a folder per trained quantizer is made in it; the key is a hash of the training rows, the method with
            its settings, the rate and the version of faiss. None: it is trained, and nothing is kept.

    Raises:
        ValueError: see `Baseline.train`.
    """
    rows, began = spaced_rows(train_vectors, max_training_rows), time.perf_counter()
    if cache_dir is None:
        baseline = Baseline.train(method, rows, num_bytes)
        return CachedBaseline(baseline, len(rows), time.perf_counter() - began, None)
    identity = {
        "method": method,
        "settings": SETTINGS.get(method),
        "num_bytes": num_bytes,
        "training_rows": fingerprint(rows),
        "faiss": str(faiss.__version__),
    }
    folder = cache_dir / f"{method}-{num_bytes}-{_key(identity)}"
    index_path, facts_path = folder / "index.faiss", folder / "facts.json"
    if not facts_path.is_file():
        began = time.perf_counter()  # without reading the rows for their hash
        baseline = Baseline.train(method, rows, num_bytes)
        facts = {**identity, "train_s": time.perf_counter() - began}
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(index_path) as temporary:
            baseline.save(temporary)
        # the facts come last: where they are, the index is complete
        write_atomically(facts_path, json.dumps(facts, indent=2) + "\n")
    # also right after training: what is measured is what a later run loads
    baseline = Baseline.load(method, index_path, int(rows.shape[1]))
    return CachedBaseline(baseline, len(rows), float(json.loads(facts_path.read_text())["train_s"]), folder)


def _key(values: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()
