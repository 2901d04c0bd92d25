"""The one file that an archive is downloaded for, as a stream: nothing else of the archive touches the disk."""

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

_BLOCK_BYTES = 1 << 20


class _UnwantedError(ValueError):
    """What is in the archive is readable, and not what is wanted."""


def unpack(
    archive: Path,
    packing: str,
    member: str,
    output: Path,
    advance: Callable[[int], None],
    size_bytes: int | None = None,
) -> str:
    """Write the file in an archive and return its SHA-256 (hex).

    Args:
        archive: a `.gz` file, or a `.tar.gz` file.
        packing: which of the two.
        member: file name wanted of a tar archive; the folders in it do not matter, except for `__MACOSX`; links,
            devices, sparse files and files of another size do not count.
        output: replaced if it exists: an unpacking that was cut short starts again.
        advance: told of bytes that are written.
        size_bytes: of the output, None where it is not known; no byte more is written.

    Raises:
        ValueError: one line for a damaged or truncated archive, or one that holds more or not the member.
        OSError: the output cannot be written.
    """
    try:
        with gzip.open(archive) as stream:
            if packing == ".gz":
                return _write(archive, stream.read, output, advance, size_bytes)
            digest = _write_member(archive, stream, member, output, advance, size_bytes)
            while stream.read(_BLOCK_BYTES):  # the checksum of the archive comes at its end
                pass
            return digest
    except _UnwantedError:
        raise
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError, ValueError, OverflowError) as error:
        raise ValueError(f"{archive} is damaged ({error}): remove it, then the same command fetches it anew") from error


def _write_member(
    archive: Path,
    stream: gzip.GzipFile,
    member: str,
    output: Path,
    advance: Callable[[int], None],
    size_bytes: int | None,
) -> str:
    names = []
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            path = PurePosixPath(entry.name)
            is_plain = entry.isreg() and not entry.issparse() and path.name == member and "__MACOSX" not in path.parts
            if is_plain and size_bytes in (None, entry.size):
                content = tar.extractfile(entry)
                assert content is not None
                return _write(archive, content.read, output, advance, size_bytes)
            names.append(f"{entry.name} of {entry.size:,} bytes" if is_plain else entry.name)
    wanted = member if size_bytes is None else f"{member} of {size_bytes:,} bytes"
    raise _UnwantedError(f"{archive} holds no file {wanted}: only {', '.join(names[:20]) or 'nothing'}")


def _write(
    archive: Path,
    read: Callable[[int], bytes],
    output: Path,
    advance: Callable[[int], None],
    size_bytes: int | None,
) -> str:
    digest, written = hashlib.sha256(), 0
    with output.open("wb") as target:
        while block := read(_BLOCK_BYTES):
            written += len(block)
            if size_bytes is not None and written > size_bytes:
                raise _UnwantedError(
                    f"{archive} holds more than the {size_bytes:,} bytes that the catalogue says: remove it to fetch "
                    "it once more, or unpack it by hand if right"
                )
            target.write(block)
            digest.update(block)
            advance(len(block))
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def sha256(path: Path, advance: Callable[[int], None]) -> str:
    """Return the SHA-256 (hex) of a file, telling of bytes that are read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()
