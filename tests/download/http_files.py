"""A web server on this machine whose files misbehave as told."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file and how it is given out.

    Attributes:
        content: the bytes; `etag` follows them.
        ranges: whether `Range` is understood; False answers with the whole file.
        versioned: whether an ETag is sent.
        conditional: whether `If-Range` is understood; False gives the range of whatever version there is.
        length: whether the length is sent; without it the body comes in chunks.
        chunked: without it, and without the length, the end of the body is that of the connection.
        total: whether answers with a part say how long all of it is.
        most: bytes that an answer with a part has at most.
        status: of the answer with all of the file.
        drop_after: bytes after which each of the next `drops` answers breaks off.
        statuses: answers (code) to give instead of the file, one after the other, before it; 0 is the file.
        pause_s: between blocks of `block` bytes.
        content_type: as sent.
        headers: further ones.
    """

    content: bytes
    ranges: bool = True
    versioned: bool = True
    conditional: bool = True
    length: bool = True
    chunked: bool = True
    total: bool = True
    most: int = 1 << 30
    status: int = 200
    drop_after: int = 0
    drops: int = 0
    statuses: list[int] = field(default_factory=list)
    pause_s: float = 0.0
    block: int = 1 << 16
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    requests: list[str] = field(default_factory=list)

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


class HttpFiles:
    """Files by path; `url(path)`, and a lock for what handlers count."""

    def __init__(self, port: int) -> None:
        self._port, self.files, self.lock = port, dict[str, Served](), threading.Lock()
        self.answers: Counter[int] = Counter()
        self.at_once = self.most_at_once = 0  # bodies on their way
        self.busy = 0  # requests that are worked on, also for clients that went away

    def add(self, path: str, content: bytes, **options: object) -> Served:
        self.files[path] = served = Served(content, **options)  # type: ignore[arg-type]
        return served

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}/{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: HttpFiles

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        with self.site.lock:
            self.site.busy += 1
        try:
            self._answer()
        finally:
            with self.site.lock:
                self.site.busy -= 1

    def _answer(self) -> None:
        self.close_connection = True
        served = self.site.files.get(self.path.lstrip("/"))
        if served is None:
            self._status(404)
            return
        with self.site.lock:
            served.requests.append(self.headers.get("Range", ""))
            status = served.statuses.pop(0) if served.statuses else None
        if status:
            self._status(status, served.headers)
            return
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has seen enough
            self._file(served)

    def _status(self, code: int, headers: Mapping[str, str] = {}) -> None:
        self.site.answers[code] += 1
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, served: Served) -> None:
        content, etag, size = served.content, served.etag, len(served.content)
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        first, last, code = 0, size - 1, served.status
        if asked and served.ranges and (condition in (None, etag) or not served.conditional):
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, last, code = int(low), min(int(high) if high else size - 1, size - 1), 206
            last = min(last, first + served.most - 1)
            if first >= size:
                self._status(416)
                return
        body = content[first : last + 1]
        self.send_response(code)
        self.send_header("Content-Type", served.content_type)
        if served.versioned:
            self.send_header("ETag", etag)
        if code == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size if served.total else '*'}")
        for name, value in served.headers.items():
            self.send_header(name, value)
        if served.length:
            self.send_header("Content-Length", str(len(body)))
        elif served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._body(served, body)

    def _body(self, served: Served, body: bytes) -> None:
        with self.site.lock:
            breaks = served.drops > 0 and len(body) > served.drop_after
            served.drops -= breaks
        if breaks:
            body = body[: served.drop_after]
        with self.site.lock:
            self.site.at_once += 1
            self.site.most_at_once = max(self.site.most_at_once, self.site.at_once)
        for start in range(0, len(body), served.block):
            block = body[start : start + served.block]
            with self.site.lock:
                served.sent += len(block)
                if start + served.block >= len(body):
                    self.site.at_once -= 1  # before the client can know that it has all
            if served.length or not served.chunked:
                self.wfile.write(block)
            else:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            if served.pause_s:
                time.sleep(served.pause_s)
        if served.chunked and not served.length and not breaks:
            self.wfile.write(b"0\r\n\r\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *args: object) -> None:
        pass  # clients that went away


@contextmanager
def http_files() -> Iterator[HttpFiles]:
    """A server for the block."""
    server = _Server(("127.0.0.1", 0), type("_Bound", (_Handler,), {}))
    server.RequestHandlerClass.site = site = HttpFiles(server.server_port)  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
