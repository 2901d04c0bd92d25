"""Write a file: all of it, or nothing under its name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Give a temporary name to write to: flushed and renamed to `final` after the block, removed if that fails."""
    temporary = final.with_name(f".{final.name}.{uuid4().hex[:12]}.tmp")
    try:
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
