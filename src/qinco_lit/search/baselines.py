"""Product and additive quantizers of faiss, as what a codec is measured against: PQ, OPQ, RQ, LSQ.

All have 8 bits a code and as many codes as bytes. Dimensions that PQ and OPQ cannot divide are padded with zeros.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import faiss
import numpy as np
from jaxtyping import Float32, Integer, Shaped, UInt8

METHODS = ("pq", "opq", "rq", "lsq")
CODEBOOK_SIZE = 256

# What is trained and how: recorded in results, and part of the cache's key, so that another number trains anew.
#
# RQ: database MSE on photo_sift (100k training vectors, 8 bytes, training beam 5, encoding beam 32) by Lloyd iterations
# and residuals per codeword: 10 and 256: 24.2k, 10 and 391: 23.6k, 25 and 391: 22.9k, 25 and 1024: 21.9k (encoding
# beam 16: 22.2k, 5: 23.0k). On another 100k SIFT a training beam of 16 or 1 was worse than 5, and faiss's default,
# training by progressive dimension, 2 % better for almost four times the time. Codebooks that are refined jointly
# after training belong to LSQ.
SETTINGS: dict[str, dict[str, int]] = {
    "pq": {"kmeans_iterations": 25},
    "opq": {"kmeans_iterations": 25, "rotation_iterations": 50},
    "rq": {"kmeans_iterations": 25, "residuals_per_codeword": 1024, "train_beam_size": 5, "encode_beam_size": 32},
    "lsq": {"train_iterations": 25, "train_ils_iterations": 8, "encode_ils_iterations": 16},
}
# faiss would take up to 5 GB for the table of distances of one encoding call.
_WORKSPACE_BYTES = 512 << 20


@runtime_checkable
class TrainingRows(Protocol):
    """A matrix of vectors that is read by row numbers: an ndarray, a VectorFile."""

    @property
    def shape(self) -> Any:
        """(rows, dim)."""

    def __getitem__(self, key: Any, /) -> Any:
        """Rows as an array (n, dim)."""


def faiss_version() -> str:
    """Version of the faiss library that trains and encodes."""
    return str(faiss.__version__)


def get_num_threads() -> int:
    """Return the threads that faiss uses."""
    return int(faiss.omp_get_max_threads())


def training_rows(vectors: TrainingRows, max_rows: int) -> Shaped[np.ndarray, "n dim"]:
    """Return at most `max_rows` rows, evenly spaced: neighbours in a file resemble each other."""
    num_rows = int(vectors.shape[0])
    if num_rows <= max_rows:
        return np.asarray(vectors[:])
    return np.asarray(vectors[np.arange(max_rows) * num_rows // max_rows])


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
        _set_kmeans(residual.rq.cp, method, num_rows)
        residual.rq.train_type = faiss.ResidualQuantizer.Train_default
        residual.rq.max_beam_size = SETTINGS[method]["train_beam_size"]
        residual.rq.use_beam_LUT = 1
        residual.rq.max_mem_distances = _WORKSPACE_BYTES
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
    _set_kmeans(product.pq.cp, method, num_rows)
    product.train(rows if rotation is None else rotation.apply(rows))
    return product if rotation is None else _chain(rotation, product)


def _trained_rotation(rows: Float32[np.ndarray, "n padded_dim"], num_bytes: int) -> Any:
    rotation = faiss.OPQMatrix(rows.shape[1], num_bytes)
    rotation.niter = SETTINGS["opq"]["rotation_iterations"]
    rotation.max_train_points = len(rows)
    # a quantizer of ours, because its own would warn about few points
    quantizer = faiss.ProductQuantizer(rows.shape[1], num_bytes, 8)
    _set_kmeans(quantizer.cp, "opq", len(rows))
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


def _set_kmeans(parameters: Any, method: str, num_rows: int) -> None:
    parameters.niter = SETTINGS[method]["kmeans_iterations"]
    # no warning about few points, and no subsampling: all methods see all training rows. A beam gives RQ several
    # residuals a row.
    parameters.min_points_per_centroid = 1
    per_codeword = SETTINGS[method].get("residuals_per_codeword", 1)
    parameters.max_points_per_centroid = max(per_codeword, -(-num_rows // CODEBOOK_SIZE))


def _use_encoding_settings(method: str, index: Any) -> list[Float32[np.ndarray, "codebook_size dim"]] | None:
    """Set what faiss does not keep in files; returns the codebooks when a prefix of the codes can be decoded."""
    if method == "lsq":
        index.lsq.encode_ils_iters = SETTINGS[method]["encode_ils_iterations"]
    if method != "rq":
        return None
    rq = index.rq
    rq.max_beam_size = SETTINGS[method]["encode_beam_size"]
    rq.use_beam_LUT = 1
    rq.max_mem_distances = _WORKSPACE_BYTES
    rq.compute_codebook_tables()
    codebooks = faiss.vector_to_array(rq.codebooks).reshape(rq.M, CODEBOOK_SIZE, index.d)
    return list(codebooks)


def _padded(x: Shaped[np.ndarray, "n dim"], padded_dim: int) -> Float32[np.ndarray, "n padded_dim"]:
    if x.shape[1] == padded_dim:
        return np.ascontiguousarray(x, dtype=np.float32)
    padded = np.zeros((len(x), padded_dim), dtype=np.float32)
    padded[:, : x.shape[1]] = x
    return padded
