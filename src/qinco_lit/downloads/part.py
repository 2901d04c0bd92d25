"""An unfinished download on disk: the bytes so far, and which file's they are."""

import json
import os
import time
from pathlib import Path
from typing import Any

from qinco_lit.downloads.servers import Remote

_SCHEMA_VERSION = 2
_SAVE_EVERY_S = 5.0
_NOTHING: dict[str, Any] = {"url": None, "size_bytes": None, "version": None, "done": 0, "complete": False}


class Part:
    """`FILE.part`, and `FILE.part.json`, which says how much of it counts: `with Part(...) as part: part.write(block)`.

    The state never claims a byte that is not on the disk: data are flushed before the state that counts them is
    written. It names the url, size and version it belongs to; for another one, or a server that gives no rest of a
    file, the download starts again.

    Attributes:
        num_done: bytes that are here.
    """

    def __init__(self, path: Path, url: str, remote: Remote) -> None:
        self._path, self._size, self._saved = path, remote.size_bytes, time.monotonic()
        self._facts = {"url": url, "size_bytes": remote.size_bytes, "version": remote.version}
        state = read_state(path) if remote.resumable else _NOTHING
        self.num_done: int = state["done"] if all(state.get(name) == self._facts[name] for name in self._facts) else 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.truncate(self._descriptor, self.num_done)

    def __enter__(self) -> "Part":
        try:
            self._save(complete=False)
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def write(self, block: bytes) -> None:
        """Append a block; raises OSError, for a full disk too."""
        rest = memoryview(block)
        while rest:
            count = os.pwrite(self._descriptor, rest, self.num_done)
            self.num_done += count
            rest = rest[count:]
        if time.monotonic() - self._saved > _SAVE_EVERY_S:
            self._save(complete=False)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._save(complete=kind is None)
        except OSError:
            if kind is None:
                raise  # else the error that led here is the one to report
        finally:
            os.close(self._descriptor)

    def _save(self, *, complete: bool) -> None:
        """Flush the bytes, then write what they are, by one temporary name: what a kill leaves of it is used again."""
        self._saved = time.monotonic()
        os.fsync(self._descriptor)
        state = {"schema_version": _SCHEMA_VERSION, **self._facts, "done": self.num_done, "complete": complete}
        temporary = _temporary(self._path)
        with temporary.open("w") as stream:
            stream.write(json.dumps(state) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(state_path(self._path))


def state_path(part: Path) -> Path:
    """Return where the state of a part lies."""
    return part.with_name(f"{part.name}.json")


def remove(part: Path) -> None:
    """Remove a part and its state, where they are."""
    for path in (part, state_path(part), _temporary(part)):
        path.unlink(missing_ok=True)


def _temporary(part: Path) -> Path:
    return part.with_name(f"{part.name}.tmp")


def read_state(part: Path) -> dict[str, Any]:
    """Return the state of a part; of one that does not describe the bytes that are there, that of nothing."""
    try:
        state = json.loads(state_path(part).read_text())
        size, done = state.get("size_bytes"), state["done"]
        is_known = state["schema_version"] == _SCHEMA_VERSION and type(done) is int and type(state["complete"]) is bool
        is_right = is_known and 0 <= done <= part.stat().st_size and (size is None or done <= size)
        if state["complete"] and (done != part.stat().st_size or size not in (None, done)):
            return _NOTHING
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _NOTHING
    return state if is_right else _NOTHING
