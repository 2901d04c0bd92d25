"""Write a file or a directory: all of it, or nothing under its name."""

import contextlib
import ctypes
import errno
import functools
import glob
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

from qinco_lit.locks import check_local, locked, marked_as_used

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of writing: these name no file
_OVERTAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)  # another process made the directory, or took it away
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: <fcntl.h>, <linux/fs.h>


# --- room on the disk ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def naming(path: Path, *others: Path) -> Iterator[None]:
    """Let an OSError inside the block name the file that is written, where it names none, or `others` in its place."""
    try:
        yield
    except OSError as error:
        unnamed = error.filename is None and error.errno in _NO_ROOM
        if not unnamed and error.filename not in map(str, others):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def full_disk_code(error: BaseException) -> int | None:
    """Return the errno of a write that found no room, None for other errors; h5py says it only inside the message."""
    for code in _NO_ROOM:
        if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
            return code
    return None


def reserve(path: Path, num_bytes: int) -> None:
    """Make an existing file at least so long, with blocks on the disk behind all of it.

    The HDF5 library keeps what it could not write, and crashes the process when it cannot be written at the close
    either. So the space is taken before the library needs it, where a full disk is an ordinary OSError.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, num_bytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems cannot reserve
                raise


# --- files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Give a temporary name to write to: flushed and renamed to `final` after the block, removed if that fails."""
    temporary = temporary_name(final)
    try:
        with naming(final, temporary):
            yield temporary
            put_in_place(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(final: Path) -> Path:
    """Return a name beside `final` that nobody else uses."""
    return _beside(final, "tmp")


def put_in_place(temporary: Path, final: Path) -> None:
    """Flush a complete file, rename it, and flush its name."""
    _fsync(temporary)
    temporary.replace(final)
    _fsync(final.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes; the folder is made when needed, an existing file is replaced.

    Raises ValueError for a url, of which a folder would be made here.
    """
    check_local(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


# --- directories -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing_directory(final: Path) -> Iterator[Path]:
    """Give a temporary directory to fill with files: flushed, then `replace_directory` after the block.

    A failed block leaves an existing `final` as it was. A link stays one: what it leads to is replaced. What killed
    processes have left of theirs is removed. Raises ValueError for a url, of which a folder would be made here.
    """
    check_local(final)
    final = final.resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(final)
    with _temporary_directory(final) as temporary:
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


@contextlib.contextmanager
def _temporary_directory(final: Path) -> Iterator[Path]:
    """A new directory beside `final`, marked as used as long as the block, and this process, last."""
    while True:
        temporary = temporary_name(final)
        temporary.mkdir()
        with marked_as_used(temporary) as is_ours:
            if is_ours is not False:  # False: taken for a leftover before it was marked
                yield temporary
                return


def remove_leftovers(final: Path) -> None:
    """Remove the temporary directories of `final` whose processes were killed; those of living ones stay.

    None goes where the file system cannot tell them, having no locks of directories.
    """
    final = final.resolve()
    for path in _beside_it(final, "tmp"):
        with marked_as_used(path) as is_abandoned:
            if is_abandoned:
                shutil.rmtree(path, ignore_errors=True)


def replace_directory(temporary: Path, final: Path) -> None:
    """Rename a directory to `final`, in exchange for one that is there, and remove that.

    Any number of processes may do so at a time, and be killed: there always is a whole `final`, and it is the last
    one's. Where the file system cannot exchange names (NFS), the old directory steps aside first, under a lock; what a
    kill leaves in between, the next writer puts back, or a reader by `put_back`.
    """
    final = final.resolve()
    while True:
        try:
            if not final.is_dir():
                temporary.rename(final)
            elif not _exchange(temporary, final):
                with _moving(final):
                    _step_aside(temporary, final)
            break
        except OSError as error:
            if error.errno not in _OVERTAKEN or not temporary.is_dir():
                raise
    _fsync(final.parent)
    shutil.rmtree(temporary, ignore_errors=True)  # the old one; what is left of it is no reason to fail


def put_back(final: Path) -> None:
    """What a reader does first about killed writers: `remove_leftovers`, and what `replace_directory` has left aside.

    The latter becomes `final` where there is none.
    """
    final = final.resolve()
    remove_leftovers(final)
    if final.exists() or not _left_aside(final):
        return
    with contextlib.suppress(OSError), _moving(final):  # of another's disk, or one that cannot be written
        _put_back(final)


def _put_back(final: Path) -> None:
    for aside in sorted(_left_aside(final), key=lambda path: path.stat().st_ctime_ns, reverse=True):
        if final.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(final)


def _step_aside(temporary: Path, final: Path) -> None:
    _put_back(final)
    try:
        if final.is_dir():
            final.rename(_beside(final, "old"))
        temporary.rename(final)
    finally:
        _put_back(final)


def _left_aside(final: Path) -> list[Path]:
    return _beside_it(final, "old")


def _beside_it(final: Path, kind: str) -> list[Path]:
    return list(final.parent.glob(f".{glob.escape(final.name)}.{'[0-9a-f]' * 12}.{kind}"))


def _moving(final: Path) -> contextlib.AbstractContextManager[bool]:
    busy = f"{final}: another process replaces it: waiting for it"
    return locked(final.with_name(f".{final.name}.moving.lock"), busy=busy, wait=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names at once; False where the system or the file system cannot."""
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _beside(final: Path, kind: str) -> Path:
    return final.with_name(f".{final.name}.{uuid4().hex[:12]}.{kind}")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
