"""An unfinished download on disk: the bytes so far, and which they are."""

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinco_lit.downloads.sources import Remote

_SCHEMA_VERSION = 1
_SAVE_EVERY_S = 5.0
MAX_SEGMENTS = 1024  # keeps the state small: it is written every few seconds


@dataclass
class Segment:
    """Bytes start..stop of the file (stop None: to its end, wherever that is), the first `done` of which are here."""

    start: int
    stop: int | None
    done: int = 0

    @property
    def finished(self) -> bool:
        """Whether all of it is here."""
        return self.stop is not None and self.start + self.done == self.stop


class Part:
    """`FILE.part`, written at many places at once, and `FILE.part.json`, which says what of it counts.

    The state never claims a byte that is not on the disk: data are flushed before the state that counts them is
    written. It names the url, size and version it belongs to: for another one the download starts again.
    """

    def __init__(self, path: Path, url: str, remote: Remote, segment_bytes: int) -> None:
        self._path, self._state_path = path, state_path(path)
        self._facts = {"url": url, "size_bytes": remote.size_bytes, "version": remote.version}
        self._lock, self._saved = threading.Lock(), time.monotonic()
        segments = _read_segments(path, self._facts) if remote.resumable else None
        self.is_new = segments is None
        self.segments = _cut(remote, segment_bytes) if segments is None else segments
        path.parent.mkdir(parents=True, exist_ok=True)
        self._state_path.unlink(missing_ok=True) if self.is_new else None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if self.is_new else 0), 0o666)

    @property
    def num_done(self) -> int:
        """Bytes that are here."""
        return sum(segment.done for segment in self.segments)

    def write(self, segment: Segment, block: bytes) -> None:
        """Append a block to a segment; raises OSError, for a full disk too."""
        rest = memoryview(block)
        while rest:
            count = os.pwrite(self._descriptor, rest, segment.start + segment.done)
            segment.done += count
            rest = rest[count:]
        if time.monotonic() - self._saved > _SAVE_EVERY_S:
            self.save()

    def finish(self, segment: Segment) -> None:
        """Note that a segment is complete, which makes its end known."""
        if segment.stop is None:
            segment.stop = segment.start + segment.done
            os.truncate(self._descriptor, segment.stop)  # an attempt before may have written more
        self.save()

    def rewind(self, segment: Segment) -> int:
        """Forget what is here of a segment; return how many bytes that were."""
        lost, segment.done = segment.done, 0
        return lost

    def save(self) -> None:
        """Flush the bytes, then write what they are."""
        with self._lock:
            self._saved = time.monotonic()
            segments = [[segment.start, segment.stop, segment.done] for segment in self.segments]
            os.fsync(self._descriptor)
            facts = {
                "schema_version": _SCHEMA_VERSION,
                **self._facts,
                "mtime_ns": os.fstat(self._descriptor).st_mtime_ns,
            }
            state = {**facts, "segments": segments}
            _replace(self._state_path, json.dumps(state) + "\n")

    def close(self) -> None:
        """Save and close; nothing may be written any more."""
        self.save()
        os.close(self._descriptor)


def _replace(path: Path, text: str) -> None:
    """Write all of a file or nothing, by way of one temporary name: what a kill leaves of it is used again."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def state_path(part: Path) -> Path:
    """Return where the state of a part lies."""
    return part.with_name(f"{part.name}.json")


def num_done(part: Path) -> int:
    """Return how many bytes of a part count, 0 where there is none."""
    state = _read_state(part, part) or {"segments": []}
    return sum(done for _, _, done in state["segments"])


def became(path: Path, part: Path) -> bool:
    """Return whether a file is the part of this name, complete and renamed, whose state still lies there."""
    state = None if part.exists() else _read_state(part, path)
    if state is None or state.get("mtime_ns") != path.stat().st_mtime_ns:
        return False  # nothing was fetched, or somebody put another file in its place
    segments = [Segment(*numbers) for numbers in state["segments"]]
    return all(segment.finished for segment in segments) and segments[-1].stop == path.stat().st_size


def _read_segments(part: Path, facts: Mapping[str, object]) -> list[Segment] | None:
    """What is here of this very file, None if nothing is."""
    state = _read_state(part, part)
    if state is None or any(state.get(name) != value for name, value in facts.items()):
        return None
    return [Segment(*numbers) for numbers in state["segments"]]


def _read_state(part: Path, content: Path) -> dict[str, Any] | None:
    """The state of a part, None for one that does not describe the bytes in `content`."""
    if not (content.is_file() and state_path(part).is_file()):
        return None
    try:
        state = json.loads(state_path(part).read_text())
        is_known = state["schema_version"] == _SCHEMA_VERSION and _tile(state["segments"], state.get("size_bytes"))
        end = max((start + done for start, _, done in state["segments"] if done), default=0) if is_known else 0
    except (ValueError, KeyError, TypeError):
        return None  # no use to anybody: start again
    return state if is_known and end <= content.stat().st_size else None


def _tile(segments: list[Any], size: int | None) -> bool:
    """Whether segments follow each other from 0 to the size (None: to any end), each with as much as it can hold."""
    place: int | None = 0
    for start, stop, done in segments:
        if not all(type(number) is int for number in (start, done)) or start != place or done < 0:
            return False
        if stop is not None and (type(stop) is not int or stop < start + done):
            return False
        place = stop  # no segment starts at None: an open one is the last
    return bool(segments) and (size is None or place == size)


def _cut(remote: Remote, segment_bytes: int) -> list[Segment]:
    if remote.size_bytes is None or not remote.parallel:
        return [Segment(0, remote.size_bytes)]
    step = max(segment_bytes, -(-remote.size_bytes // MAX_SEGMENTS))
    return [Segment(start, min(start + step, remote.size_bytes)) for start in range(0, remote.size_bytes, step)]
