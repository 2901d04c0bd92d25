"""Write a file or a directory: all of it, or nothing under its name."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of writing: these name no file


@contextmanager
def naming(path: Path, *others: Path) -> Iterator[None]:
    """Let an OSError inside the block name the file that is written, where it names none, or `others` in its place."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None and error.errno in _NO_ROOM
        if not unnamed and error.filename not in map(str, others):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Give a temporary name to write to: flushed and renamed to `final` after the block, removed if that fails."""
    temporary = final.with_name(f".{final.name}.{uuid4().hex[:12]}.tmp")
    try:
        with naming(final, temporary):
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes; the folder is made when needed, an existing file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_directory(final: Path) -> Iterator[Path]:
    """Give a temporary directory to fill with files: flushed and renamed to `final` after the block.

    An existing `final` steps aside first and goes only when the new one stands; it comes back when that fails, and a
    failed block leaves it as it was. A link stays one: what it leads to is replaced.
    """
    final = final.resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid4().hex[:12]}.tmp")
    temporary.mkdir()
    mode = stat.S_IMODE(temporary.stat().st_mode) & 0o666  # of a new file, as the user's umask has it
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                path.chmod(mode)  # some writers, as of safetensors, keep everyone but the owner out
            _fsync(path)
        _fsync(temporary)
        replace_directory(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_directory(temporary: Path, final: Path) -> None:
    """Rename a directory to `final`; one that is there makes room, and comes back if it is not replaced."""
    aside = final.with_name(f".{final.name}.{uuid4().hex[:12]}.old")
    try:
        if final.is_dir():
            final.rename(aside)
        temporary.rename(final)
        _fsync(final.parent)
    finally:
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)  # what is left of it is no reason to fail: the new one stands
        elif aside.exists():
            aside.rename(final)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
