"""One process at a time: locks that a killed process cannot leave behind; and one among threads.

By `flock`, and not by `filelock`, which torch brings: that one leaves its files, turns to locks that outlive a killed
process where the file system has none, gives no descriptor that a child could hold on to, and shares a lock only by
way of an SQLite file, in versions younger than torch asks for.
"""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)

_URL_AS_PATH = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # some network file systems


@contextlib.contextmanager
def locked(path: Path, *, busy: str, wait: bool = False, shared: bool = False) -> Iterator[bool]:
    """Hold the lock file for the block; it is removed afterwards. Where the file system has no locks, go on without.

    Yields whether it is held, or False where there are no locks.

    Args:
        path: of the lock file; its folder is made when needed.
        busy: where another process holds it, the error; with `wait`, what is logged before this one waits.
        wait: until it is free.
        shared: with others that share it.

    Raises:
        ValueError: another process holds it, and `wait` is false.
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, has_locks = _acquire(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, busy, wait=wait)
    try:
        yield has_locks
    finally:
        # removed while it is held alone, or it could be the next one's
        if not shared or not has_locks or _try(descriptor, fcntl.LOCK_EX):
            path.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def locked_with_children(path: Path) -> Iterator[int | None]:
    """Hold the lock file for the block and yield its descriptor; None where another process holds it.

    A child that inherits the descriptor holds the lock as long as it runs, also when this process is killed. So the
    file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, _ = _acquire(path, fcntl.LOCK_EX, "", wait=False)
    except ValueError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def check_local(output: Path) -> None:
    """Raise ValueError for a url, of which `Path` has made `s3:/bucket/name`."""
    if _URL_AS_PATH.match(str(output)):
        raise ValueError(
            f"{output}: only codes in Parquet are written to urls (qinco encode): name a place on this machine, and "
            "copy what is there in the end"
        )


@contextlib.contextmanager
def only_writer(output: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold what a command writes for the block, by the lock `.NAME.lock` beside it.

    Raises:
        ValueError: another process writes it, or it is a url.
        FileNotFoundError: there is no folder for it.
        OSError: nothing can be written there.
    """
    check_local(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: the folder {output.parent} does not exist; make it first")
    busy = f"{output}: another process writes it; wait for that one, or name another output"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(output.with_name(f".{output.name}.lock"), busy=busy, shared=shared))
        except OSError as error:
            raise OSError(f"{output} cannot be written ({error.strerror}): name another output") from None
        yield


@contextlib.contextmanager
def marked_as_used(directory: Path) -> Iterator[bool | None]:
    """Hold a directory itself, without a file in it, for the block, or until this process is killed.

    Yields False where another holds it, or it is not there any more; None where the file system has no locks of
    directories.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        yield _marked(descriptor, directory)
    finally:
        os.close(descriptor)


def _marked(descriptor: int, directory: Path) -> bool | None:
    try:
        # another might have removed it before it was locked, or given its name to another one
        return _try(descriptor, fcntl.LOCK_EX) and os.path.samestat(os.fstat(descriptor), directory.stat())
    except FileNotFoundError:
        return False
    except OSError:
        return None


def is_held(path: Path) -> bool:
    """Tell whether a process holds this lock file; False where the file system knows no locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    except OSError:
        return False
    finally:
        os.close(descriptor)


class SharedLock:
    """Among the threads of a process: any number read what one changes alone. One that waits to change goes first."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = self._waiting = 0
        self._changing = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Read inside the block, which must not ask for this lock again."""
        with self._condition:
            self._condition.wait_for(lambda: not self._changing and not self._waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._condition:
                self._readers -= 1
                self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Change inside the block, when all who read have ended."""
        with self._condition:
            self._waiting += 1
            try:
                self._condition.wait_for(lambda: not self._changing and not self._readers)
                self._changing = True
            finally:
                self._waiting -= 1
                self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._changing = False
                self._condition.notify_all()


def _acquire(path: Path, kind: int, busy: str, *, wait: bool) -> tuple[int, bool]:
    """The descriptor of the lock file, and whether it is locked: not where there are no locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # less what the user's umask takes
        try:
            try:
                if not _try(descriptor, kind):
                    if not wait:
                        raise ValueError(busy)
                    _log.info(busy)
                    fcntl.flock(descriptor, kind)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                _say_unlocked(path.parent)
                return descriptor, False
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor, True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the holder before removed the file while we waited


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@functools.cache
def _say_unlocked(folder: Path) -> None:
    _log.warning(f"{folder}: the file system has no locks; let no other process work on the same files")
