"""A server's file, read from any byte on: what http and ftp have in common."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Remote:
    """What a server says of a file.

    Attributes:
        size_bytes: None where it does not say.
        version: ETag or date of change; None: nothing tells another version of the same size apart.
        resumable: can be read from the middle on.
        parallel: can be read over several connections.
        has_end: the server marks the end, so that it cannot be mistaken for a break.
    """

    size_bytes: int | None
    version: str | None
    resumable: bool
    parallel: bool
    has_end: bool = True


@runtime_checkable
class Source(Protocol):
    """A file on a server.

    Both methods raise TemporaryError where trying again may help, ValueError with one line where it does not.
    """

    url: str

    def probe(self) -> Remote:
        """Ask for the facts, without the content."""

    def read(self, remote: Remote, start: int, stop: int | None) -> Generator[bytes, None, None]:
        """Yield the bytes start..stop (None: to the end) in blocks, all of them or a fault.

        Raises:
            RemoteChangedError: the file is no longer the one of `remote`.
        """


def open_source(url: str, timeout_s: float) -> Source:
    """Return the file at a url; ValueError for other schemes than http, https and ftp."""
    from qinco_lit.downloads.ftp_source import FtpSource
    from qinco_lit.downloads.http_source import HttpSource

    scheme = url.partition("://")[0]
    if scheme in ("http", "https"):
        return HttpSource(url, timeout_s)
    if scheme == "ftp":
        return FtpSource(url, timeout_s)
    raise ValueError(f"{url}: only http, https and ftp can be downloaded")
