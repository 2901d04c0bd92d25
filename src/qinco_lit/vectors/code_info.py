"""What a file of codes is: its size, and the codec, input and search that it belongs to."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from jaxtyping import Integer, Shaped

from qinco_lit.vectors.code_packing import pack_codes, packed_bytes, unpack_codes
from qinco_lit.vectors.vector_file import VectorFile

FORMAT = "qinco_lit codes"
VERSION = 1
# Rows of the input that are hashed: all of a small file, or so many runs of so many rows, evenly spaced.
_SAMPLED_RUNS, _RUN_ROWS = 64, 64
CENTROIDS_FORMAT = "qinco_lit centroids"  # of the json file beside centroids
_READING = {False: "vectors as they are stored", True: "vectors of unit length"}


class StoredRows(NamedTuple):
    """Rows as they lie in the file: codes, packed or not, and the list of each vector for codecs that have lists."""

    codes: Shaped[np.ndarray, "n columns"]
    list_ids: Integer[np.ndarray, " n"] | None


@dataclass(frozen=True)
class CodeInfo:
    """Identity of a store. All but `input_path`, which is for the reader, must agree for work to be continued.

    Attributes:
        num_rows: vectors.
        num_steps, codebook_size: codes per vector (M), values of a code (K).
        packed: the codes of a vector are one number (`pack_codes`) instead of columns.
        num_lists: of a codec with lists; None: the store has no list ids.
        shard_rows: vectors per shard, fewer in the last one; checksums are per shard.
        codec_sha256: hash of the codec's weights.safetensors; of a truncated codec, that of the codec it was cut from.
        dim, input_dtype, input_bytes: of the vectors and their file.
        input_path: as the user wrote it.
        input_sample_sha256: hash of evenly spaced rows of the input, as they are read: raw or of unit length.
        beam_size, num_candidates, candidate_budget: the search; what it does not use is None.
        precision: of the codec's arithmetic.
        input_unit: whether rows of the input were divided by their norms when they were read; None in stores of before
            this was recorded.
        encoded_num_steps: the codes are the first `num_steps` of so many that were searched for; None: of no more.
    """

    num_rows: int
    num_steps: int
    codebook_size: int
    packed: bool
    num_lists: int | None
    shard_rows: int
    codec_sha256: str
    dim: int
    input_dtype: str
    input_bytes: int
    input_path: str
    input_sample_sha256: str
    beam_size: int
    num_candidates: int | None
    candidate_budget: int | None
    precision: str
    input_unit: bool | None = None
    encoded_num_steps: int | None = None

    @property
    def num_shards(self) -> int:
        """Shards that the rows are cut into."""
        return -(-self.num_rows // self.shard_rows)

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """Of codes outside the file: uint8, or uint16 when codebook_size > 256."""
        return np.dtype(np.uint8 if self.codebook_size <= 256 else np.uint16)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Of the dataset of codes; little-endian."""
        return np.dtype(np.uint8) if self.packed else self.code_dtype.newbyteorder("<")

    @property
    def stored_columns(self) -> int:
        """Columns of the dataset of codes."""
        return packed_bytes(self.num_steps, self.codebook_size) if self.packed else self.num_steps

    @property
    def bytes_per_vector(self) -> int:
        """What a vector takes in the file, its list id included."""
        return self.stored_columns * self.stored_dtype.itemsize + (0 if self.num_lists is None else 4)

    def shard_range(self, shard: int) -> tuple[int, int]:
        """First row of a shard, and the row after its last."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_rows)

    def prefix(self, num_steps: int) -> "CodeInfo":
        """Return what a store of the first codes of each vector is, 1 to `self.num_steps` of them."""
        assert 1 <= num_steps <= self.num_steps
        searched = self.encoded_num_steps or self.num_steps
        return replace(self, num_steps=num_steps, encoded_num_steps=None if num_steps == searched else searched)

    def stored(self, codes: Integer[np.ndarray, "n steps"]) -> Shaped[np.ndarray, "n columns"]:
        """Return codes as they lie in the file."""
        if self.packed:
            return pack_codes(codes, self.codebook_size)
        return np.ascontiguousarray(codes, dtype=self.stored_dtype)

    def unstored(self, columns: Shaped[np.ndarray, "n columns"]) -> Integer[np.ndarray, "n steps"]:
        """Return codes from what lies in the file."""
        if self.packed:
            return unpack_codes(columns, self.num_steps, self.codebook_size)
        return columns.astype(self.code_dtype, copy=False)

    def differences(self, other: "CodeInfo") -> Iterator[str]:
        """Yield what `self` has otherwise than `other`, in words: `beam_size is 8 there, 16 here`."""
        for field in fields(self):
            there, here = getattr(self, field.name), getattr(other, field.name)
            # the hash of the sample tells raw rows from those of unit length, too: stores of before input_unit go on
            if there != here and field.name not in ("input_path", "input_unit"):
                yield f"{field.name} is {_short(there)} there, {_short(here)} here"

    def to_values(self) -> dict[str, Any]:
        """Return plain values, for attributes and JSON; what is None is left out."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {"format": FORMAT, "version": VERSION, **values}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "CodeInfo":
        """Read what `to_values` gave. Raises ValueError for another format or a value that is missing."""
        if str(values.get("format")) != FORMAT or int(values.get("version", 0)) != VERSION:
            raise ValueError(f"not in the format {FORMAT!r} version {VERSION}")
        plain: dict[str, Any] = {}
        for field in fields(cls):
            value = values.get(field.name)
            if value is None and type(None) not in get_args(field.type):
                raise ValueError(f"attribute {field.name} is missing")
            plain[field.name] = value.item() if isinstance(value, np.generic) else value  # h5py gives numpy scalars
        return cls(**plain)


class RowsDigest:
    """SHA-256 of a run of rows: the bytes of their codes as stored, then those of their list ids."""

    def __init__(self) -> None:
        self._codes = hashlib.sha256()
        self._list_ids: list[bytes] = []

    def add(self, rows: StoredRows) -> None:
        """Take the next rows."""
        self._codes.update(np.ascontiguousarray(rows.codes).data)
        if rows.list_ids is not None:
            self._list_ids.append(rows.list_ids.astype("<i4").tobytes())

    def hexdigest(self) -> str:
        """Return the checksum of all rows added."""
        digest = self._codes.copy()
        for part in self._list_ids:
            digest.update(part)
        return digest.hexdigest()


def input_facts(vectors: VectorFile) -> dict[str, Any]:
    """Return the fields of `CodeInfo` that describe the input; reads at most 4096 rows of it."""
    return {
        "num_rows": len(vectors),
        "dim": vectors.shape[1],
        "input_dtype": vectors.dtype.name,
        "input_bytes": vectors.file_bytes,
        "input_path": vectors.path,
        "input_sample_sha256": _sample_sha256(vectors),
        "input_unit": vectors.is_unit,
    }


def _sample_sha256(vectors: VectorFile) -> str:
    num_rows, dim = vectors.shape
    # normalised rows are other vectors than those of the file, even where the rows that are hashed have unit length
    digest = hashlib.sha256(f"{num_rows} {dim} {vectors.dtype.str}{' unit' if vectors.is_unit else ''}".encode())
    if num_rows <= _SAMPLED_RUNS * _RUN_ROWS:
        digest.update(vectors[:].data)
    else:
        for run in range(_SAMPLED_RUNS):
            start = run * (num_rows - _RUN_ROWS) // (_SAMPLED_RUNS - 1)
            digest.update(vectors[start : start + _RUN_ROWS].data)
    return digest.hexdigest()


def read_as_unit(facts: Mapping[str, Any], vectors: Any) -> bool | None:
    """Whether the rows of `input_facts` were of unit length when they were read; None: it is not known.

    Facts of before that was recorded tell by their type, or by their sample where it is that of `vectors`, which begin
    at the first row of their file.
    """
    if facts.get("input_unit") is not None:
        return bool(facts["input_unit"])
    if facts["input_dtype"] != "float32":
        return False
    if not isinstance(vectors, VectorFile):
        return None
    raw = vectors.as_stored().view(0, len(vectors))
    return next(
        (some.is_unit for some in (raw, raw.unit()) if _sample_sha256(some) == facts["input_sample_sha256"]), None
    )


def starts_file(facts: Mapping[str, Any], vectors: Any) -> bool:
    """Whether the rows of `input_facts` are the first ones of the file of `vectors`, read as those are."""
    if not isinstance(vectors, VectorFile):
        return False
    whole = vectors.as_stored()
    if facts["num_rows"] > len(whole):
        return False
    first = whole.view(0, facts["num_rows"])
    return _sample_sha256(first.unit() if vectors.is_unit else first) == str(facts["input_sample_sha256"])


def _short(value: Any) -> str:
    """A hash by its first digits, other values whole."""
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)


# --- as stored, or of unit length -------------------------------------------------------------------------------------


def check_reading(given: str, facts: Mapping[str, Any], vectors: Any, data: Any, fix: str) -> None:
    """Refuse what was made of rows in the other reading; where it is not known, nothing is refused.

    Args:
        given: what was given, `OPTION=PATH`.
        facts: `input_facts` of the rows that it was made of.
        vectors: rows of the data set, from the first of their file on; they decide on facts that do not say.
        data: data module.
        fix: what makes it as it should be.

    Raises:
        ValueError: it is of unit vectors and `data.metric` reads others, or the other way round.
    """
    unit, expected = read_as_unit(facts, vectors), data.metric == "cosine"
    if unit is not None and unit != expected:
        raise ValueError(
            f"{given} are of {_READING[unit]}, with data.metric={data.metric} data set {data.name} has "
            f"{_READING[expected]}: {fix}"
        )


def check_centroids_reading(path: Path, data: Any) -> None:
    """Refuse centroids of rows in the other reading, by the record that `qinco centroids` wrote beside them.

    Raises:
        ValueError: as `check_reading`.
    """
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        if record["format"] != CENTROIDS_FORMAT:
            return
        facts = {**record["facts"], "input_unit": record.get("input_unit")}
    except (OSError, ValueError, KeyError, TypeError):  # of elsewhere: nothing is known of them
        return
    fix = f"make them with `qinco centroids data=CHOICE data.metric={data.metric}`"
    check_reading(f"coarse.centroids={path}", facts, data.train_vectors, data, fix)
