"""The pairwise decoder: an additive estimate plus tables over pairs of codes, a vector's own and those of its list."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Integer
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from qinco_lit.arrays import check_range
from qinco_lit.atomic import full_disk_code, replacing_directory
from qinco_lit.search.decoders.additive import AdditiveDecoder, code_columns, sum_of_codewords

_FORMAT = "qinco_lit pairwise decoder"
_VERSION = 1
_CONFIG, _ARRAYS = "config.json", "tables.safetensors"
_DECODED_ROWS = 65_536
_CPU = torch.device("cpu")

_Decoder = TypeVar("_Decoder", bound="PairwiseDecoder")


def cells_of(columns: Int[Tensor, "rows columns"], pair: tuple[int, int], codebook_size: int) -> Int[Tensor, " rows"]:
    """Row of a pair's table for each vector."""
    return columns[:, pair[0]] * codebook_size + columns[:, pair[1]]


@dataclass(frozen=True)
class PairwiseDecoder:
    """Estimates what codes describe (x minus its centroid in an IVF codec), better than the additive decoder does.

    Args:
        columns: the pair of code columns of each table; the first `num_steps` columns are a vector's codes, the others
            those of its list.
        tables: (tables, codebook_size^2, dim) float32 or float16, raw space; row `code_a * codebook_size + code_b`.
        list_codes: (num_lists, list columns) codes of the lists.
        additive: what the tables add to.

    Raises:
        ValueError: parts whose sizes do not fit together.
    """

    columns: list[tuple[int, int]]
    tables: Float[np.ndarray, "tables cells dim"]
    list_codes: Integer[np.ndarray, "lists list_columns"]
    additive: AdditiveDecoder

    def __post_init__(self) -> None:
        num_steps, codebook_size, dim = self.additive.codebooks.shape
        expected = (len(self.columns), codebook_size**2, dim)
        if self.tables.shape != expected:
            raise ValueError(f"pairwise tables of shape {self.tables.shape} do not fit: expected {expected}")
        if self.tables.dtype not in (np.float32, np.float16):
            raise ValueError(f"pairwise tables of dtype {self.tables.dtype} are not supported: float32 or float16")
        num_columns = num_steps + self.list_codes.shape[1]
        for pair in self.columns:
            if not 0 <= min(pair) <= max(pair) < num_columns:
                raise ValueError(f"pair {tuple(pair)} is none of {num_columns} code columns")
        if self.list_codes.size and not 0 <= int(self.list_codes.min()) <= int(self.list_codes.max()) < codebook_size:
            raise ValueError(f"the codes of the lists are out of range: codebook_size is {codebook_size}")

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        return self.tables.nbytes + self.list_codes.nbytes + self.additive.codebooks.nbytes

    def decode(
        self, list_ids: Integer[np.ndarray, " ids"], codes: Integer[np.ndarray, "rows steps"]
    ) -> Float32[np.ndarray, "rows dim"]:
        """Estimates of x minus its centroid, in raw space.

        Raises:
            ValueError: shapes, list ids or codes that do not fit.
        """
        if len(list_ids) != len(codes):
            raise ValueError(f"{len(list_ids)} list ids do not fit codes of shape {codes.shape}")
        num_steps, codebook_size, dim = self.additive.codebooks.shape
        tables, codebooks = torch.from_numpy(self.tables), torch.from_numpy(self.additive.codebooks)
        firsts, seconds = ([pair[side] for pair in self.columns] for side in (0, 1))
        out = torch.empty((len(codes), dim))
        for start in range(0, len(codes), _DECODED_ROWS):
            rows = slice(start, start + _DECODED_ROWS)
            own = code_columns(codes[rows], num_steps, codebook_size, _CPU)
            columns = torch.cat([own, list_columns(self.list_codes, list_ids[rows])], dim=1)
            estimate = sum_of_codewords(codebooks, own)
            if self.columns:
                estimate += sum_of_codewords(tables, columns[:, firsts] * codebook_size + columns[:, seconds])
            out[rows] = estimate
        return out.numpy()

    def save(self, directory: str | Path) -> None:
        """Write `config.json` and `tables.safetensors`; the directory appears complete or not at all.

        Raises:
            OSError: the disk is full.
        """
        with replacing_directory(Path(directory)) as temporary:
            arrays = {"tables": self.tables, "list_codes": self.list_codes, "codebooks": self.additive.codebooks}
            arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            try:
                save_file(arrays, temporary / _ARRAYS)
            except SafetensorError as error:
                if (code := full_disk_code(error)) is None:
                    raise
                raise OSError(code, os.strerror(code)) from None
            config = {
                "format": _FORMAT,
                "version": _VERSION,
                "columns": [list(pair) for pair in self.columns],
                "arrays_sha256": _sha256(temporary / _ARRAYS),
            }
            (temporary / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls: type[_Decoder], directory: str | Path) -> _Decoder:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no pairwise decoder there.
            ValueError: an unknown format, or arrays that do not belong to the config or are damaged.
        """
        source = Path(directory)
        for name in (_CONFIG, _ARRAYS):
            if not (source / name).is_file():
                raise FileNotFoundError(f"no pairwise decoder in {source}: {name} is missing")
        columns, expected_hash = _read_config(source / _CONFIG)
        if _sha256(source / _ARRAYS) != expected_hash:
            raise ValueError(
                f"{source / _ARRAYS} is damaged or belongs to another decoder: its SHA-256 is not that of {_CONFIG}"
            )
        try:
            arrays = load_file(source / _ARRAYS)
            additive = AdditiveDecoder(arrays["codebooks"])
            return cls(columns, arrays["tables"], arrays["list_codes"], additive)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{source / _ARRAYS} does not fit its {_CONFIG}: {error}") from error


def list_columns(
    list_codes: Integer[np.ndarray, "lists list_columns"], list_ids: Integer[np.ndarray, " rows"]
) -> Int[Tensor, "rows list_columns"]:
    """The codes of each vector's list.

    Raises:
        ValueError: a list id out of range.
    """
    ids = torch.from_numpy(list_ids.astype(np.int64))
    check_range(ids, len(list_codes), word="list id", option="num_lists")
    return torch.from_numpy(list_codes[ids.numpy()].astype(np.int64))


def _read_config(path: Path) -> tuple[list[tuple[int, int]], str]:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        if config["format"] != _FORMAT or config["version"] != _VERSION:
            raise ValueError(f"format {config['format']!r} version {config['version']!r}")
        return [(int(a), int(b)) for a, b in config["columns"]], str(config["arrays_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no pairwise decoder this version reads: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
