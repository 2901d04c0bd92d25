"""The user's own ids of the database vectors: one integer per vector, in memory or in a file."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from qinco_lit.vectors import open_vectors

_IDS_BLOCK = 1 << 22


class UserIds:
    """Ids of vectors, checked; those of a file are mapped from it.

    Args:
        ids: integers (n,), or their file: npy of shape (n,) or (n, 1), ivecs or ibin of one column; or a column of
            tables, as `open_vectors` takes it: `emb/*.parquet:id`.
        num_rows: vectors that need one.

    Attributes:
        sha256: of all ids.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not integers, another number of them, a negative one, or one that is there twice.
    """

    def __init__(self, ids: Any, num_rows: int) -> None:
        self._name = f"ids={ids}" if isinstance(ids, str | Path) else "ids"
        values = _open_ids(str(ids)) if isinstance(ids, str | Path) else np.asarray(ids)
        if values.dtype.kind not in "iu":
            raise ValueError(f"{self._name} holds {values.dtype}: give integers")
        if len(values.shape) == 2 and values.shape[1] != 1:
            raise ValueError(f"{self._name} has {values.shape[1]} columns: give one id per vector")
        if values.shape[:1] != (num_rows,):
            raise ValueError(f"{self._name} has {values.shape[0]} ids, there are {num_rows} vectors: give one for each")
        self._values = values
        self.sha256 = self._check()

    def __call__(self, start: int, stop: int) -> Int64[np.ndarray, " n"]:
        """Ids of the rows start..stop."""
        return np.asarray(self._values[start:stop]).reshape(-1).astype(np.int64)

    def _check(self) -> str:
        """Read all ids once, and sort them in memory unless they ascend already; return their hash."""
        digest, last, ascends = hashlib.sha256(), -1, True
        for start in range(0, len(self._values), _IDS_BLOCK):
            block = self(start, min(start + _IDS_BLOCK, len(self._values)))
            if (out := block < 0).any():  # uint64 beyond int64 too
                row = start + int(out.argmax())
                bad = np.asarray(self._values[row]).item()
                raise ValueError(f"{self._name}: id {bad} (row {row}) is out of range: ids go from 0 to 2^63 - 1")
            ascends = ascends and bool(block[0] > last and (np.diff(block) > 0).all())
            last = int(block[-1])
            digest.update(block.astype("<i8").tobytes())
        if not ascends:
            ids = np.sort(self(0, len(self._values)))
            twice = ids[1:][ids[1:] == ids[:-1]]
            if len(twice):
                raise ValueError(f"{self._name}: id {twice[0]} is there twice: every vector needs its own")
        return digest.hexdigest()


def _open_ids(path: str) -> Any:
    try:
        return np.load(path, mmap_mode="r") if _is_plain_npy(Path(path)) else open_vectors(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"ids={error}") from None


def _is_plain_npy(path: Path) -> bool:
    """Whether the file is an array of one dimension, which is no file of vectors."""
    if path.suffix != ".npy" or not path.is_file():
        return False
    try:
        return bool(np.load(path, mmap_mode="r").ndim == 1)
    except ValueError:
        return False
