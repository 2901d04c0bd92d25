"""`DOWNLOADS.json`: what was downloaded into a folder, when, from where, with which checksum."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qinco_lit.atomic import write_atomically
from qinco_lit.locks import locked

MANIFEST = "DOWNLOADS.json"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A file as it was when first seen whole; `downloaded` is False for one that somebody put there.

    Attributes:
        url: of the file or of its archive.
        size_bytes, sha256: of the file, unpacked.
        recorded: when, ISO 8601, UTC.
        downloaded: whether it came from the url here.
        version: what the server said of the file's version then (ETag, date), None if nothing.
    """

    url: str
    size_bytes: int
    sha256: str
    recorded: str
    downloaded: bool
    version: str | None = None


def now() -> str:
    """Return the time as entries have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Manifest:
    """The entries of a folder by file name; several processes may record at the same time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST

    def entry(self, name: str) -> Entry | None:
        """Return what is recorded of a file. Raises ValueError for a manifest that cannot be read."""
        found = self._read().get(name)
        if found is None:
            return None
        try:
            entry = Entry(**found)
        except TypeError as error:
            raise self._damaged(f"the entry of {name}") from error
        texts = (entry.url, entry.sha256, entry.recorded, entry.version or "")
        is_right = all(isinstance(text, str) for text in texts) and isinstance(entry.downloaded, bool)
        if not is_right or type(entry.size_bytes) is not int:
            raise self._damaged(f"the entry of {name}")
        return entry

    def record(self, name: str, entry: Entry) -> None:
        """Add an entry or replace it."""
        busy = f"another process writes {self.path}: waiting for it"
        with locked(self.path.with_name(f".{MANIFEST}.lock"), busy=busy, wait=True):
            files = self._read() | {name: asdict(entry)}
            content = {"schema_version": _SCHEMA_VERSION, "files": dict(sorted(files.items()))}
            write_atomically(self.path, json.dumps(content, indent=2) + "\n")

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text())
            files, version = content["files"], content["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged("it") from error
        if version != _SCHEMA_VERSION or not isinstance(files, dict):
            raise self._damaged("it")
        return files

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is damaged, {what} cannot be read: repair or remove it")
