"""The zip that `torch.save` writes, opened without torch's unpickler."""

import zipfile
import zlib
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from qinco_lit.published.inert_values import StoredTensor

_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first pickle of a file of torch before 1.6


def check_is_archive(source: Path) -> None:
    """One line for what is no file that `torch.save` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a zip: truncated, torch's format before version 1.6, or something else; or a wrong checksum,
            which torch does not look at.
    """
    if not source.is_file():
        raise FileNotFoundError(f"no checkpoint at {source}")
    if zipfile.is_zipfile(source):
        _check_checksums(source)
        return
    with source.open("rb") as stream:
        start = stream.read(len(_LEGACY_MAGIC))
    if start == _LEGACY_MAGIC:
        raise ValueError(f"{source} is in the format of torch before 1.6, which no published checkpoint has")
    raise ValueError(f"{source} is no torch checkpoint or is truncated")


def _check_checksums(source: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            bad = archive.testzip()
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{source} is no torch checkpoint or is damaged: {error}") from error
    if bad is not None:
        raise ValueError(f"{source} is damaged: the checksum of {bad!r} in it is wrong")


class TorchArchive:
    """`ROOT/data.pkl` beside `ROOT/data/KEY`, one file per storage: `with TorchArchive(path) as archive`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not laid out like that, damaged, compressed, or of a big-endian machine.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        check_is_archive(source)
        self._zip = zipfile.ZipFile(source)
        roots = [name.removesuffix("data.pkl") for name in self._zip.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            self._zip.close()
            raise ValueError(f"{source} is no torch checkpoint: {len(roots)} entries are named data.pkl")
        self._root = roots[0]

    def __enter__(self) -> "TorchArchive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()

    def pickle(self) -> bytes:
        """The pickle of the saved object."""
        if f"{self._root}byteorder" in self._zip.namelist() and self._read("byteorder") != b"little":
            raise ValueError(f"{self._source} was written by a big-endian machine")
        return self._read("data.pkl")

    def tensor(self, stored: StoredTensor) -> Tensor:
        """A copy of the tensor, in its stored dtype."""
        storage = stored.storage
        data = bytearray(self._read(f"data/{storage.key}"))
        if len(data) != storage.size * storage.dtype.itemsize:
            raise ValueError(
                f"{self._source} is damaged: storage {storage.key} has {len(data)} bytes, "
                f"{storage.size} x {storage.dtype.itemsize} are declared"
            )
        flat = torch.frombuffer(data, dtype=storage.dtype)
        return flat.as_strided(stored.shape, stored.strides, stored.offset).clone(memory_format=torch.contiguous_format)

    def _read(self, name: str) -> bytes:
        try:
            entry = self._zip.getinfo(self._root + name)
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{self._source} is no torch checkpoint: {name} is compressed")
            return self._zip.read(entry)
        except KeyError as error:
            raise ValueError(f"{self._source} is damaged: it has no {name}") from error
