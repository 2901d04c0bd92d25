"""The one file that an archive is downloaded for, as a stream: nothing else of the archive touches the disk."""

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

_BLOCK_BYTES = 1 << 20


def unpack(archive: Path, packing: str, member: str, output: Path, advance: Callable[[int], None]) -> str:
    """Write the file in an archive and return its SHA-256 (hex).

    Args:
        archive: a `.gz` file, or a `.tar.gz` file.
        packing: which of the two.
        member: file name wanted of a tar archive; the folders in it do not matter, links and devices do not count.
        output: replaced if it exists: an unpacking that was cut short starts again.
        advance: told of bytes that are written.

    Raises:
        ValueError: one line for a damaged or truncated archive, or one that does not hold the member.
        OSError: the output cannot be written.
    """
    try:
        with gzip.open(archive) as stream:
            if packing == ".gz":
                return _write(stream.read, output, advance)
            digest = _write_member(archive, stream, member, output, advance)
            while stream.read(_BLOCK_BYTES):  # the checksum of the archive comes at its end
                pass
            return digest
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"{archive} is damaged ({error}): remove it, then the same command fetches it anew") from error


def _write_member(
    archive: Path, stream: gzip.GzipFile, member: str, output: Path, advance: Callable[[int], None]
) -> str:
    names = []
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            if entry.isreg() and PurePosixPath(entry.name).name == member:
                content = tar.extractfile(entry)
                assert content is not None
                return _write(content.read, output, advance)
            names.append(entry.name)
    raise ValueError(f"{archive} holds no file {member}: only {', '.join(names[:20]) or 'nothing'}")


def _write(read: Callable[[int], bytes], output: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with output.open("wb") as target:
        while block := read(_BLOCK_BYTES):
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
