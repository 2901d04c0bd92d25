"""A file on a web or ftp server, read from any byte on; every answer that is not the file asked for."""

import ftplib
import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from urllib.parse import unquote, urlsplit

BLOCK_BYTES = 1 << 18
_TEMPORARY = {408, 425, 429}  # and 5xx
_MAX_RETRY_AFTER_S = 600.0
_MEANINGS = {
    401: "it asks for a login",
    403: "the server does not give it out",
    404: "there is no such file",
    410: "the file was removed",
}


class TemporaryError(Exception):
    """Trying again may help: a dropped connection, a short answer, an overloaded server.

    Attributes:
        retry_after_s: what the server asks to wait, 0 if it does not say.
    """

    def __init__(self, what: str, retry_after_s: float = 0.0) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class ChangedError(Exception):
    """The file on the server is no longer the one of which a part is here."""


class _NoRangeError(ChangedError):
    """The server has no such range (416), or does not say of how much it is one."""


@dataclass(frozen=True)
class Remote:
    """What a server says of a file.

    Attributes:
        size_bytes: None where it does not say.
        version: ETag or date of change; None: nothing tells another version of the same size apart.
        resumable: can be read from the middle on.
        has_end: the server marks the end, so that it cannot be mistaken for a break.
    """

    size_bytes: int | None
    version: str | None
    resumable: bool
    has_end: bool = True


class HttpFile:
    """A file on a web server; `http_proxy` and its kin are honoured, redirects are followed."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self._timeout_s = url, timeout_s

    def look(self) -> Remote:
        """Ask for the facts, by a range, as what comes shows whether the server knows ranges.

        Raises:
            TemporaryError: trying again may help.
            ValueError: it does not; one line.
        """
        for ranges in (True, False):  # some servers refuse any range with 416
            with suppress(_NoRangeError), self._asked(0, ranges=ranges) as (remote, _):
                if remote.size_bytes == 0:
                    raise ValueError(f"{self.url} is an empty file")
                return remote
        raise ValueError(f"{self.url} gives neither all of the file nor a part of known place")

    def read(self, remote: Remote, start: int) -> Generator[bytes, None, None]:
        """Yield the bytes from `start` on in blocks, all of them or a fault; those of `look`, and ChangedError."""
        with self._asked(start, remote.version, ranges=remote.resumable) as (found, response):
            if _differ(found.version, remote.version) or _differ(found.size_bytes, remote.size_bytes):
                raise ChangedError
            if start and not found.resumable:
                raise TemporaryError("the server answered with all of the file, not with the rest of it")
            yield from _blocks(response.read1, None if found.size_bytes is None else found.size_bytes - start)

    @contextmanager
    def _asked(
        self, start: int, version: str | None = None, *, ranges: bool
    ) -> Iterator[tuple[Remote, http.client.HTTPResponse]]:
        """An answer with the file, or its rest from `start` on if it still has this version, and what it says of it."""
        # identity: a compressed answer has other byte positions
        headers = {"User-Agent": "qinco_lit", "Accept-Encoding": "identity"}
        if ranges:
            headers["Range"] = f"bytes={start}-"
            if version is not None and not version.startswith("W/"):  # weak ones may not be sent
                headers["If-Range"] = version
        request = urllib.request.Request(self.url, headers=headers)
        with self._faults(), urllib.request.urlopen(request, timeout=self._timeout_s) as response:
            self._check_kind(response)
            is_rest, size = response.status == 206, _number(response.headers.get("Content-Length", ""))
            if is_rest:
                place = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", response.headers.get("Content-Range", ""))
                if place is None or int(place[1]) != start:
                    raise TemporaryError("the server answered with another part of the file than was asked for")
                if place[2] == "*":  # a part of a file of unknown length: its end would be taken for the file's
                    raise _NoRangeError
                size = int(place[2])
            has_end = size is not None or response.chunked
            yield Remote(size, _version(response.headers), resumable=is_rest, has_end=has_end), response

    def _check_kind(self, response: http.client.HTTPResponse) -> None:
        """Raise ValueError for an answer whose body is not the bytes of the file."""
        if not isinstance(response, http.client.HTTPResponse):
            raise ValueError(f"{self.url} is redirected to another place, which is not on a web server")
        if response.status not in (200, 206):
            raise ValueError(f"{self.url} answers {response.status} {response.reason}, not with the file")
        if "html" in response.headers.get_content_type():
            raise ValueError(f"{self.url} answers with a web page, not with the file")
        coding = response.headers.get("Content-Encoding", "").strip().lower()
        # many servers say this of stored archives, which are wanted as they are
        is_stored = coding in ("gzip", "x-gzip") and self.url.endswith(".gz")
        if coding not in ("", "identity") and not is_stored:
            raise ValueError(
                f"{self.url} comes with Content-Encoding {coding}, which was not asked for: fetch it by hand"
            )

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Sort the exceptions of a request by what helps."""
        try:
            yield
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise ValueError(f"{self.url}: the server's certificate is not valid: {error.reason}") from error
            raise TemporaryError(f"no connection ({_text(error.reason)})") from error
        except (OSError, http.client.HTTPException) as error:
            raise TemporaryError(f"the connection broke ({_text(error)})") from error

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        headers = error.headers or Message()
        if error.code == 416:  # the byte asked for is behind its end
            if headers.get("Content-Range") == "bytes */0":
                return ValueError(f"{self.url} is an empty file")
            return _NoRangeError()
        if error.code in _TEMPORARY or error.code >= 500:
            wait_s = min(float(_number(headers.get("Retry-After", "")) or 0), _MAX_RETRY_AFTER_S)
            return TemporaryError(f"the server answers {error.code} {error.reason}", wait_s)
        meaning = _MEANINGS.get(error.code, "it cannot be downloaded")
        return ValueError(f"{self.url} answers {error.code} {error.reason}: {meaning}")


class FtpFile:
    """A file on an ftp server, resumed by REST, read as anonymous where the url names no user."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self._timeout_s = url, timeout_s
        self._parts = urlsplit(url)
        self._path = unquote(self._parts.path).removeprefix("/")

    def look(self) -> Remote:
        """Ask for size, date, and whether REST is known; the faults are those of `HttpFile.look`."""
        with self._session() as ftp:
            return Remote(*self._facts(ftp), resumable=self._restarts(ftp))

    def read(self, remote: Remote, start: int) -> Generator[bytes, None, None]:
        """Yield the bytes from `start` on in blocks, all of them or a fault; those of `HttpFile.read`."""
        with self._session() as ftp:
            if self._facts(ftp) != (remote.size_bytes, remote.version):
                raise ChangedError
            with ftp.transfercmd(f"RETR {self._path}", start or None) as data:
                yield from _blocks(data.recv, None if remote.size_bytes is None else remote.size_bytes - start)
            if remote.size_bytes is None:
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
            raise TemporaryError(f"the connection broke ({_text(error)})") from error
        finally:
            ftp.close()

    def _facts(self, ftp: ftplib.FTP) -> tuple[int | None, str | None]:
        return _number(_optional(ftp, f"SIZE {self._path}") or ""), _optional(ftp, f"MDTM {self._path}")

    @staticmethod
    def _restarts(ftp: ftplib.FTP) -> bool:
        try:
            ftp.sendcmd("REST 1")
            ftp.sendcmd("REST 0")
        except ftplib.error_perm:
            return False
        return True


def open_url(url: str, timeout_s: float) -> HttpFile | FtpFile:
    """Return the file at a url; ValueError for other schemes than http, https and ftp."""
    scheme = url.partition("://")[0]
    if scheme in ("http", "https"):
        return HttpFile(url, timeout_s)
    if scheme == "ftp":
        return FtpFile(url, timeout_s)
    raise ValueError(f"{url}: only http, https and ftp can be downloaded")


def _blocks(receive: Callable[[int], bytes], missing: int | None) -> Generator[bytes, None, None]:
    """Blocks until `missing` bytes have come; None: until no more come."""
    while missing is None or missing > 0:
        block = receive(BLOCK_BYTES if missing is None else min(BLOCK_BYTES, missing))
        if not block:
            break
        yield block
        missing = None if missing is None else missing - len(block)
    if missing:
        raise TemporaryError(f"the connection was closed {missing:,} bytes early")


def _optional(ftp: ftplib.FTP, command: str) -> str | None:
    """The answer to a command that a server need not know; a file that is not there (550) is an error."""
    try:
        answer = ftp.sendcmd(command)
    except ftplib.error_perm as error:
        if str(error).startswith("550"):
            raise
        return None
    return answer.partition(" ")[2].strip()


def _version(headers: Message) -> str | None:
    etag, date = headers.get("ETag"), headers.get("Last-Modified")
    return etag if etag and not etag.startswith("W/") else date or etag


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text.strip()) else None  # isdigit knows ² too


def _differ(one: object, other: object) -> bool:
    """Whether both are known and not the same."""
    return None not in (one, other) and one != other


def _text(error: object) -> str:
    return str(error) or type(error).__name__
