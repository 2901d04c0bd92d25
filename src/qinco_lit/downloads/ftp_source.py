"""Files over ftp: one connection a file, resumed by REST."""

import ftplib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from qinco_lit.downloads.faults import RemoteChangedError, TemporaryError
from qinco_lit.downloads.sources import BLOCK_BYTES, Remote


class FtpSource:
    """A file on an ftp server, read as anonymous where the url names no user."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self._timeout_s = url, timeout_s
        self._parts = urlsplit(url)
        self._path = unquote(self._parts.path).removeprefix("/")

    def probe(self) -> Remote:
        """Ask for size, date, and whether REST is known. One connection: many servers count them by address."""
        with self._session() as ftp:
            return Remote(self._size(ftp), self._version(ftp), resumable=self._restarts(ftp), parallel=False)

    def read(self, remote: Remote, start: int, stop: int | None) -> Generator[bytes, None, None]:
        """Yield the bytes start..stop; the parameters and faults are those of `Source.read`."""
        with self._session() as ftp:
            if (self._size(ftp), self._version(ftp)) != (remote.size_bytes, remote.version):
                raise RemoteChangedError
            missing = None if stop is None else stop - start
            with ftp.transfercmd(f"RETR {self._path}", start or None) as data:
                while missing is None or missing > 0:
                    block = data.recv(BLOCK_BYTES if missing is None else min(BLOCK_BYTES, missing))
                    if not block:
                        break
                    yield block
                    missing = None if missing is None else missing - len(block)
            if missing:
                raise TemporaryError(f"the connection was closed {missing:,} bytes early")
            if missing is None:
                ftp.voidresp()  # without a size only this tells the end from a break

    @contextmanager
    def _session(self) -> Iterator[ftplib.FTP]:
        """An open connection, in binary mode; exceptions are sorted by what helps."""
        ftp = ftplib.FTP(timeout=self._timeout_s)
        try:
            ftp.connect(self._parts.hostname or "", self._parts.port or ftplib.FTP_PORT)
            ftp.login(unquote(self._parts.username or ""), unquote(self._parts.password or ""))
            ftp.voidcmd("TYPE I")
            yield ftp
        except ftplib.error_perm as error:
            if str(error).startswith("530"):  # most often: too many users at the moment
                raise TemporaryError(f"the server answers {error}") from error
            raise ValueError(f"{self.url} answers {error}") from error
        except (ftplib.Error, EOFError, OSError) as error:
            raise TemporaryError(f"the connection broke ({str(error) or type(error).__name__})") from error
        finally:
            ftp.close()

    def _size(self, ftp: ftplib.FTP) -> int | None:
        answer = _optional(ftp, f"SIZE {self._path}") or ""
        return int(answer) if answer.isascii() and answer.isdigit() else None

    def _version(self, ftp: ftplib.FTP) -> str | None:
        return _optional(ftp, f"MDTM {self._path}")

    @staticmethod
    def _restarts(ftp: ftplib.FTP) -> bool:
        try:
            ftp.sendcmd("REST 1")
            ftp.sendcmd("REST 0")
        except ftplib.error_perm:
            return False
        return True


def _optional(ftp: ftplib.FTP, command: str) -> str | None:
    """The answer to a command that a server need not know; a file that is not there (550) is an error."""
    try:
        answer = ftp.sendcmd(command)
    except ftplib.error_perm as error:
        if str(error).startswith("550"):
            raise
        return None
    return answer.partition(" ")[2].strip()
