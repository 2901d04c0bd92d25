"""Codes of training and validation vectors, for the decoders of an index: encoded as the database was, or given."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, Integer, Shaped

from qinco_lit.codec import Codec
from qinco_lit.encoding.encode_file import encode
from qinco_lit.quantizers.precision import recorded_precision
from qinco_lit.search.build.first_codes import FirstCodes
from qinco_lit.vectors import CodeStore, VectorFile, open_codes, open_vectors, write_vectors
from qinco_lit.vectors.code_info import CodeInfo, starts_file
from qinco_lit.vectors.readings import check_reading

log = logging.getLogger(__name__)

_BLOCK_BYTES = 32 << 20  # of float32 vectors
_SAMPLED_ROWS = 64


class CodedRows:
    """Vectors with their codes and lists, block by block (`qinco_lit.search.decoders.additive.CodedVectors`).

    Args:
        vectors: (n, dim), those that the codes are of.
        codes: theirs; n rows, or more, of which the first n count.
        centroids: of the lists, raw space.
    """

    def __init__(self, vectors: Any, codes: FirstCodes, centroids: Float32[np.ndarray, "lists dim"]) -> None:
        self._num_rows = min(len(codes), len(vectors))
        self._vectors, self._codes, self._centroids = vectors, codes, centroids
        self._block_rows = max(1, _BLOCK_BYTES // (4 * centroids.shape[1]))

    def __len__(self) -> int:
        return self._num_rows

    def blocks(
        self,
    ) -> Iterator[tuple[Integer[np.ndarray, "b steps"], Int32[np.ndarray, " b"], Float32[np.ndarray, "b dim"]]]:
        """Yield (codes, list ids, x - centroid) of all rows, in order."""
        for start in range(0, len(self), self._block_rows):
            stop = min(start + self._block_rows, len(self))
            list_ids = self._codes.list_ids(start, stop)
            x = np.asarray(self._vectors[start:stop], dtype=np.float32)
            yield self._codes[start:stop], list_ids, x - self._centroids[list_ids]

    def check(self, codec: Codec) -> None:
        """Raise ValueError unless the codes decode to these vectors better than to their neighbours in the file."""
        rows = slice(0, min(1000, len(self)))
        x = np.asarray(self._vectors[rows], dtype=np.float32)
        x_hat = codec.decode(self._codes[rows], list_ids=self._codes.list_ids(0, rows.stop))
        error, other = (float(((x - each) ** 2).sum(1).mean()) for each in (x_hat, np.roll(x_hat, 1, axis=0)))
        if len(x) > 1 and not error < other:
            raise ValueError(
                f"{self._codes.store.path} holds codes of other vectors: row k must be row k of the training vectors "
                f"(mean squared error {error:.4g}, {other:.4g} from the next row's codes)"
            )


def given_rows(path: Path, codes: FirstCodes, data: Any, centroids: Float32[np.ndarray, "lists dim"]) -> CodedRows:
    """The training vectors of a data set with codes that are there already, checked as far as it can be.

    Args:
        path: as the user wrote it.
        codes: row k holds those of training vector k; of all rows of their file, the first ones are taken.
        data: data module.
        centroids: of the lists, raw space.

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


def encoded_rows(
    vectors: Any,
    num_rows: int,
    folder: Path,
    name: str,
    *,
    codec_dir: Path,
    like: CodeInfo,
    searched: int | None,
    num_steps: int,
    centroids: Float32[np.ndarray, "lists dim"],
    device: str,
    num_threads: int | None,
) -> CodedRows:
    """Encode evenly spaced rows with the search of a store; what an earlier call has finished is kept.

    Args:
        vectors: (n, dim).
        num_rows: of them.
        folder: where the rows (`NAME.npy`, unless they are all of a file) and their codes (`NAME.h5`) go.
        name: of the files.
        codec_dir: the codec of the store.
        like: the search and the precision of the store.
        searched: codes that the search is after; None: as many as the codec has.
        num_steps: of them, how many are taken.
        centroids: of the lists.
        device: cpu, cuda, cuda:1.
        num_threads: of torch; None leaves them.

    Raises:
        ValueError: NaN or infinity in a row.
        OSError: the disk is full; finished shards are kept.
    """
    chosen = vectors
    if num_rows < len(vectors) or not isinstance(vectors, VectorFile):
        path = folder / f"{name}.npy"
        if not path.exists():
            write_vectors(path, _spaced_rows(vectors, num_rows, name))
        chosen = open_vectors(path)
    kind, _, number = device.partition(":")
    encode(
        codec_dir=codec_dir,
        vectors=chosen,
        output=folder / f"{name}.h5",
        trainer={"accelerator": kind, "devices": [int(number)] if number else 1},
        beam_size=like.beam_size,
        num_candidates=like.num_candidates,
        candidate_budget=like.candidate_budget,
        num_steps=searched,
        precision=recorded_precision(like.precision),
        num_threads=num_threads,
    )
    return CodedRows(chosen, FirstCodes(open_codes(folder / f"{name}.h5"), num_steps), centroids)


def sample_sha256(vectors: Any) -> str:
    """Hash of the shape, the dtype and a few evenly spaced rows."""
    rows = np.ascontiguousarray(vectors[_spaced(len(vectors), min(_SAMPLED_ROWS, len(vectors)))])
    return hashlib.sha256(f"{tuple(vectors.shape)} {rows.dtype.str}".encode() + rows.tobytes()).hexdigest()


def store_sha256(store: CodeStore) -> str:
    """Hash of all codes of a store, from the checksums of its shards."""
    return hashlib.sha256(" ".join(shard.sha256 for shard in store.shards).encode()).hexdigest()


def _spaced(total: int, num_rows: int) -> Int64[np.ndarray, " n"]:
    return np.arange(num_rows, dtype=np.int64) * total // num_rows


def _spaced_rows(vectors: Any, num_rows: int, name: str) -> Iterator[Shaped[np.ndarray, "b dim"]]:
    rows = _spaced(len(vectors), num_rows)
    step = max(1, _BLOCK_BYTES // (4 * int(vectors.shape[1])))
    for start in range(0, num_rows, step):
        ids = rows[start : start + step]
        block = vectors[ids]
        if block.dtype.kind == "f" and not (finite := np.isfinite(block).all(axis=1)).all():
            row = int(ids[int(finite.argmin())])
            where = getattr(vectors, "path", "the data set")
            raise ValueError(f"{where}: {name} vector {row} holds NaN or infinity: repair or remove it")
        yield block
