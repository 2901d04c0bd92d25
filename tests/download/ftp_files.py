"""An ftp server on this machine, as small as it can be: passive mode, binary, one file at a time."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class FtpFiles:
    """Files by path. `drops` answers break off after `drop_after` bytes; `rest` is whether REST is known."""

    def __init__(self, port: int) -> None:
        self.port, self.files = port, dict[str, bytes]()
        self.date, self.rest, self.drops, self.drop_after = "20240101000000", True, 0, 0
        self.busy = 0  # logins to refuse first
        self.sent = 0
        self.starts: list[int] = []

    def url(self, path: str) -> str:
        return f"ftp://127.0.0.1:{self.port}/{path}"


class _Session(socketserver.StreamRequestHandler):
    site: FtpFiles

    def handle(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self._say("220 ready")
            self._commands(listener)

    def _commands(self, listener: socket.socket) -> None:
        start = 0
        for line in self.rfile:
            command, _, argument = line.decode().strip().partition(" ")
            content = self.site.files.get(argument)
            if command == "USER":
                self.site.busy, is_busy = max(0, self.site.busy - 1), self.site.busy > 0
                self._say("530 too many users" if is_busy else "230 welcome")
            elif command == "TYPE":
                self._say("200 ok")
            elif command == "REST":
                start = int(argument)
                self._say("350 from there" if self.site.rest else "502 not known")
            elif command in ("SIZE", "MDTM", "RETR") and content is None:
                self._say("550 no such file")
            elif command == "SIZE":
                self._say(f"213 {len(content or b'')}")
            elif command == "MDTM":
                self._say(f"213 {self.site.date}")
            elif command in ("EPSV", "PASV"):
                port = listener.getsockname()[1]
                self._say(
                    f"227 ok (127,0,0,1,{port >> 8},{port & 255})" if command == "PASV" else f"229 ok (|||{port}|)"
                )
            elif command == "RETR":
                self._say("150 coming")
                self._send(listener, content or b"", start)
                start = 0
            else:
                self._say("500 what?")

    def _send(self, listener: socket.socket, content: bytes, start: int) -> None:
        site, body = self.site, content[start:]
        breaks = site.drops > 0
        site.drops -= breaks
        site.starts.append(start)
        connection, _ = listener.accept()
        with connection:
            body = body[: site.drop_after] if breaks else body
            connection.sendall(body)
            site.sent += len(body)
        self._say("426 broken" if breaks else "226 done")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *args: object) -> None:
        pass  # clients that went away


@contextmanager
def ftp_files() -> Iterator[FtpFiles]:
    """A server for the block."""
    server = _Server(("127.0.0.1", 0), type("_Bound", (_Session,), {}))
    server.RequestHandlerClass.site = site = FtpFiles(server.server_address[1])  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
