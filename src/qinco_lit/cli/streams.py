"""Standard output and error that may be closed, left by their reader, or of an encoding that lacks our characters."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Let nothing that is written to the terminal end the command: what nobody can read is dropped.

    Raises:
        OSError: at the end of the block, what was written did not fit where it was sent (`> FILE` on a full disk).
    """
    _open_standard_descriptors()
    before = sys.stdout, sys.stderr = _there(sys.stdout), _there(sys.stderr)
    sys.stdout, sys.stderr = map(_forgiving, before)
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = before


def _open_standard_descriptors() -> None:
    """Open those that the shell has closed (`>&-`): files of ours would take their numbers, and get what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _there(stream: Any) -> Any:
    return Path(os.devnull).open("w") if stream is None else stream  # the process's, to its end


def _forgiving(stream: Any) -> "_Forgiving":
    if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
        stream.reconfigure(errors="replace")
    return _Forgiving(stream)


class _Forgiving:
    """A stream whose reader may go away, as `head` does."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._left():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._left():
            self._stream.flush()

    @contextlib.contextmanager
    def _left(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # what the stream still holds goes there at the end of the process, too
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
