"""Vectors with their codes and lists: those of the database, and those that the decoders of an index are fitted to."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, Integer, Shaped

from qinco_lit.codec import Codec
from qinco_lit.encoding.encode_file import encode_file
from qinco_lit.quantizers.precision import recorded_precision
from qinco_lit.vectors import CodeStore, VectorFile, open_vectors, write_vectors
from qinco_lit.vectors.code_info import CodeInfo, check_reading, starts_file

log = logging.getLogger(__name__)

_BLOCK_BYTES = 32 << 20  # of float32 vectors
_SAMPLED_ROWS = 64
_READ_ROWS = 1 << 18  # of codes at a time


ListIds = Callable[[int, int], Int32[np.ndarray, " n"]]


class FirstCodes:
    """The first codes of every vector of a store, without a copy of it; as `qinco_lit.search.index.lists.StoredCodes`.

    Args:
        store: of at least `num_steps` codes a vector.
        num_steps: of them, the first.
        lists: of row ranges, where the codec of the codes has none.
    """

    def __init__(self, store: CodeStore, num_steps: int, lists: ListIds | None = None) -> None:
        assert 1 <= num_steps <= store.shape[1]
        self.store, self.num_steps = store, num_steps
        self.list_ids: ListIds = store.list_ids if lists is None else lists

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, rows: slice, /) -> Integer[np.ndarray, "n steps"]:
        codes: Any = self.store[rows]
        return np.asarray(codes[:, : self.num_steps])


class SampledRows:
    """Some rows of vectors, array-like: `shape`, `dtype`, `len`, and indexing that reads them.

    Args:
        vectors: (n, dim).
        rows: of them, ascending.
    """

    def __init__(self, vectors: VectorFile, rows: Int64[np.ndarray, " n"]) -> None:
        self.path, self.dtype, self.rows, self._vectors = vectors.path, vectors.dtype, rows, vectors
        self.shape = (len(rows), vectors.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Shaped[np.ndarray, "n dim"]:
        return self._vectors[self.rows[key]]


class SampledCodes:
    """Codes and lists of some rows of a store, in memory.

    Args:
        codes: of all rows, read once in order.
        rows: of them, ascending.
    """

    def __init__(self, codes: FirstCodes, rows: Int64[np.ndarray, " n"]) -> None:
        self.store = codes.store
        parts, lists = [], []
        for start in range(0, len(codes), _READ_ROWS):
            stop = min(start + _READ_ROWS, len(codes))
            wanted = rows[slice(*np.searchsorted(rows, [start, stop]))] - start
            if len(wanted):
                parts.append(codes[start:stop][wanted])
                lists.append(codes.list_ids(start, stop)[wanted])
        self._codes, self._lists = np.concatenate(parts), np.concatenate(lists)

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, rows: slice, /) -> Integer[np.ndarray, "n steps"]:
        return self._codes[rows]

    def list_ids(self, start: int, stop: int) -> Int32[np.ndarray, " n"]:
        """Lists of a row range."""
        return self._lists[start:stop]


class CodedRows:
    """Vectors with their codes and lists, block by block (as `qinco_lit.search.decoders.pairwise.CodedVectors`).

    Args:
        vectors: (n, dim), those that the codes are of.
        codes: theirs; n rows, or more, of which the first n count.
        centroids: of the lists, raw space; None: the codes say all of a vector, not what its centroid leaves.
    """

    def __init__(
        self, vectors: Any, codes: FirstCodes | SampledCodes, centroids: Float32[np.ndarray, "lists dim"] | None
    ) -> None:
        self._num_rows = min(len(codes), len(vectors))
        self._vectors, self._codes, self._centroids = vectors, codes, centroids
        self._block_rows = max(1, _BLOCK_BYTES // (4 * int(vectors.shape[1])))

    def __len__(self) -> int:
        return self._num_rows

    def blocks(
        self,
    ) -> Iterator[tuple[Integer[np.ndarray, "b steps"], Int32[np.ndarray, " b"], Float32[np.ndarray, "b dim"]]]:
        """Yield (codes, list ids, what the codes say: x - centroid, or x) of all rows, in order."""
        for start in range(0, len(self), self._block_rows):
            stop = min(start + self._block_rows, len(self))
            list_ids = self._codes.list_ids(start, stop)
            x = np.asarray(self._vectors[start:stop], dtype=np.float32)
            yield self._codes[start:stop], list_ids, x if self._centroids is None else x - self._centroids[list_ids]

    def check(self, codec: Codec) -> None:
        """Raise ValueError unless the codes decode to these vectors better than to their neighbours in the file."""
        rows = slice(0, min(1000, len(self)))
        x = np.asarray(self._vectors[rows], dtype=np.float32)
        list_ids = None if self._centroids is None else self._codes.list_ids(0, rows.stop)
        x_hat = codec.decode(self._codes[rows], list_ids=list_ids)
        error, other = (float(((x - each) ** 2).sum(1).mean()) for each in (x_hat, np.roll(x_hat, 1, axis=0)))
        if len(x) > 1 and not error < other:
            raise ValueError(
                f"{self._codes.store.path} holds codes of other vectors: row k must be row k of the training vectors "
                f"(mean squared error {error:.4g}, {other:.4g} from the next row's codes)"
            )


def given_rows(
    path: str | Path, codes: FirstCodes, data: Any, centroids: Float32[np.ndarray, "lists dim"] | None
) -> CodedRows:
    """The training vectors of a data set with codes that are there already, checked as far as it can be.

    Args:
        path: as the user wrote it.
        codes: row k holds those of training vector k; of all rows of their file, the first ones are taken.
        data: data module.
        centroids: of the lists, raw space; None: of a codec without lists.

    Raises:
        ValueError: codes of rows in another reading than `data.metric`'s, or more rows than training vectors, and not
            those of their file.
    """
    vectors, num_rows, facts = data.train_vectors, len(data.train_vectors), asdict(codes.store.info)
    where = getattr(vectors, "path", "FILE")
    fix = (
        f"leave training_codes out, or give codes of `qinco encode data=files data.train={where} data.database={where}"
    )
    check_reading(f"training_codes={path}", facts, vectors, data, f"{fix} data.metric={data.metric}`")
    if len(codes) > num_rows:
        if not starts_file(facts, vectors):
            raise ValueError(
                f"training_codes={path} has {len(codes)} rows, data set {data.name} has {num_rows} training vectors: "
                f"give the store of their file {where}, or of its first rows"
            )
        log.info(
            "training_codes=%s: the first %s of %s rows, the training vectors", path, f"{num_rows:,}", f"{len(codes):,}"
        )
    return CodedRows(vectors, codes, centroids)


def encode_rows(
    codec: Codec,
    vectors: VectorFile,
    output: Path,
    *,
    like: CodeInfo | None,
    num_steps: int,
    num_threads: int | None,
    progress: bool | None,
) -> CodeStore:
    """Encode vectors with the search and the precision of a store; what an earlier call has finished is kept.

    Args:
        codec: of the store.
        vectors: (n, dim).
        output: the store of codes.
        like: of the other store; None: as the codec does.
        num_steps: codes that the search is after.
        num_threads: of torch; None leaves them.
        progress: False: nothing is shown.

    Raises:
        ValueError: NaN or infinity in a row.
        OSError: the disk is full; finished shards are kept.
    """
    if like is None:
        return encode_file(codec, vectors, output, num_steps=num_steps, num_threads=num_threads, progress=progress)
    encoder = Codec(codec.quantizer, precision=recorded_precision(like.precision))
    encoder.weights_sha256, encoder.truncated_from = codec.weights_sha256, codec.truncated_from
    return encode_file(
        encoder,
        vectors,
        output,
        beam_size=like.beam_size,
        num_candidates=like.num_candidates,
        candidate_budget=like.candidate_budget,
        num_steps=num_steps,
        num_threads=num_threads,
        progress=progress,
    )


def spaced_rows_file(vectors: Any, num_rows: int, folder: Path, name: str) -> VectorFile:
    """Evenly spaced rows of vectors as a file of their own, `NAME.npy`, unless they are all of a file.

    Raises:
        ValueError: NaN or infinity in a row.
    """
    if num_rows == len(vectors) and isinstance(vectors, VectorFile):
        return vectors
    path = folder / f"{name}.npy"
    if not path.exists():
        write_vectors(path, _spaced_rows(vectors, num_rows, name))
    return open_vectors(path)


def sample_sha256(vectors: Any) -> str:
    """Hash of the shape, the dtype and a few evenly spaced rows."""
    rows = np.ascontiguousarray(vectors[spaced(len(vectors), min(_SAMPLED_ROWS, len(vectors)))])
    return hashlib.sha256(f"{tuple(vectors.shape)} {rows.dtype.str}".encode() + rows.tobytes()).hexdigest()


def store_sha256(store: CodeStore) -> str:
    """Hash of all codes of a store, from the checksums of its shards."""
    return hashlib.sha256(" ".join(shard.sha256 for shard in store.shards).encode()).hexdigest()


def spaced(total: int, num_rows: int) -> Int64[np.ndarray, " n"]:
    """So many of `total` rows, evenly spaced."""
    return np.arange(num_rows, dtype=np.int64) * total // num_rows


def _spaced_rows(vectors: Any, num_rows: int, name: str) -> Iterator[Shaped[np.ndarray, "b dim"]]:
    rows = spaced(len(vectors), num_rows)
    step = max(1, _BLOCK_BYTES // (4 * int(vectors.shape[1])))
    for start in range(0, num_rows, step):
        ids = rows[start : start + step]
        block = vectors[ids]
        if block.dtype.kind == "f" and not (finite := np.isfinite(block).all(axis=1)).all():
            row = int(ids[int(finite.argmin())])
            where = getattr(vectors, "path", "the data set")
            raise ValueError(f"{where}: {name} vector {row} holds NaN or infinity: repair or remove it")
        yield block
