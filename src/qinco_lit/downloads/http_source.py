"""Files over http and https: ranges, and every answer that is not the file asked for."""

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from email.message import Message

from qinco_lit.downloads.faults import RemoteChangedError, TemporaryError
from qinco_lit.downloads.sources import BLOCK_BYTES, Remote

_TEMPORARY = {408, 425, 429}  # and 5xx
_MAX_RETRY_AFTER_S = 600.0
_MEANINGS = {
    401: "it asks for a login",
    403: "the server does not give it out",
    404: "there is no such file",
    410: "the file was removed",
}


class _BehindEndError(RemoteChangedError):
    """The server has no such range (416); `is_empty` if it says that there is no byte at all."""

    def __init__(self, is_empty: bool) -> None:
        super().__init__()
        self.is_empty = is_empty


class HttpSource:
    """A file on a web server; `http_proxy` and its kin are honoured, redirects are followed."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self._timeout_s = url, timeout_s

    def probe(self) -> Remote:
        """Ask for the first byte: what comes shows whether the server knows ranges, which its headers may not."""
        # some servers refuse any range with 416, or do not say of how much it is a part: ask for all of it then
        for headers in ({"Range": "bytes=0-0"}, {}):
            try:
                remote = self._ask(headers)
            except _BehindEndError as error:
                if error.is_empty:
                    raise ValueError(f"{self.url} is an empty file") from None
                continue
            if remote is not None and remote.size_bytes == 0:
                raise ValueError(f"{self.url} is an empty file")
            if remote is not None:
                return remote
        raise ValueError(f"{self.url} gives neither all of the file nor a part of known place")

    def _ask(self, headers: dict[str, str]) -> Remote | None:
        """What an answer says of the file, None for a part of a file of which it does not say the length."""
        with self._faults(), self._open(headers) as response:
            self._check_kind(response)
            if response.status == 200:
                size = _length(response.headers)
                has_end = size is not None or response.chunked
                return Remote(size, _version(response.headers), resumable=False, parallel=False, has_end=has_end)
            size = _total(response.headers)
            return None if size is None else Remote(size, _version(response.headers), resumable=True, parallel=True)

    def read(self, remote: Remote, start: int, stop: int | None) -> Generator[bytes, None, None]:
        """Yield the bytes start..stop; the parameters and faults are those of `Source.read`."""
        headers = {}
        if remote.resumable:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
            if remote.version is not None and not remote.version.startswith("W/"):  # weak ones may not be sent
                headers["If-Range"] = remote.version
        with self._faults(), self._open(headers) as response:
            self._check(response, remote, start)
            missing = response.length if stop is None else stop - start
            while missing is None or missing > 0:
                block = response.read1(BLOCK_BYTES if missing is None else min(BLOCK_BYTES, missing))
                if not block:
                    break
                yield block
                missing = None if missing is None else missing - len(block)
            if missing:
                raise TemporaryError(f"the connection was closed {missing:,} bytes early")

    def _check_kind(self, response: http.client.HTTPResponse) -> None:
        """Raise ValueError for an answer whose body is not the bytes of the file."""
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

    def _check(self, response: http.client.HTTPResponse, remote: Remote, start: int) -> None:
        self._check_kind(response)
        is_range = response.status == 206
        version = _version(response.headers)
        size = _total(response.headers) if is_range else _length(response.headers)
        if _differ(version, remote.version) or _differ(size, remote.size_bytes):
            raise RemoteChangedError
        if (_first(response.headers) if is_range else 0) != start:
            raise TemporaryError("the server answered with another part of the file than was asked for")

    def _open(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        # identity: a compressed answer has other byte positions
        headers = {"User-Agent": "qinco_lit", "Accept-Encoding": "identity", **headers}
        response = urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=self._timeout_s)
        if not isinstance(response, http.client.HTTPResponse):
            raise ValueError(f"{self.url} is redirected to {response.geturl()}, which is not on a web server")
        return response

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
        if error.code == 416:  # the byte asked for is behind its end
            return _BehindEndError((error.headers.get("Content-Range", "") if error.headers else "") == "bytes */0")
        if error.code in _TEMPORARY or error.code >= 500:
            asked = error.headers.get("Retry-After", "") if error.headers else ""
            wait_s = min(float(_number(asked) or 0), _MAX_RETRY_AFTER_S)
            return TemporaryError(f"the server answers {error.code} {error.reason}", wait_s)
        meaning = _MEANINGS.get(error.code, "it cannot be downloaded")
        return ValueError(f"{self.url} answers {error.code} {error.reason}: {meaning}")


def _version(headers: Message) -> str | None:
    etag, date = headers.get("ETag"), headers.get("Last-Modified")
    return etag if etag and not etag.startswith("W/") else date or etag


def _length(headers: Message) -> int | None:
    return _number(headers.get("Content-Length", ""))


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text.strip()) else None  # isdigit knows ² too


def _total(headers: Message) -> int | None:
    match = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _first(headers: Message) -> int | None:
    match = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _differ(one: object, other: object) -> bool:
    """Whether both are known and not the same."""
    return None not in (one, other) and one != other


def _text(error: object) -> str:
    return str(error) or type(error).__name__
