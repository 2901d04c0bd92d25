"""Servers of this machine and a record of what a download says."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qinco_lit.downloads import RemoteFile, Settings, download
from tests.cli.conftest import qinco, refused  # noqa: F401 (fixtures)
from tests.download.ftp_files import FtpFiles, ftp_files
from tests.download.http_files import HttpFiles, http_files

SEGMENT = 100_000
QUICK = Settings(jobs=4, timeout_s=5.0, tries=4, pause_s=0.01, segment_bytes=SEGMENT)


class Recorder:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[tuple[str, str]] = []
        self.done: dict[tuple[str, str], int] = {}
        self.began: dict[tuple[str, str], int] = {}
        self._lock, self._phase = threading.Lock(), dict[str, str]()
        self.on_bytes: Callable[[], None] = lambda: None

    def begin(self, name: str, phase: str, done: int, total: int | None) -> None:
        with self._lock:
            self.phases.append((name, phase))
            self._phase[name] = phase
            self.done[name, phase] = self.began[name, phase] = done

    def advance(self, name: str, num_bytes: int) -> None:
        with self._lock:
            self.done[name, self._phase[name]] += num_bytes
        self.on_bytes()

    def end(self, name: str) -> None:
        self._phase.pop(name, None)

    def note(self, text: str) -> None:
        with self._lock:
            self.notes.append(text)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy between a test and its server."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def web() -> Iterator[HttpFiles]:
    with http_files() as site:
        yield site


@pytest.fixture
def ftp() -> Iterator[FtpFiles]:
    with ftp_files() as site:
        yield site


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def fetch(tmp_path: Path, recorder: Recorder) -> Callable[..., Path]:
    """Download one url to a name, with quick settings; return the path."""

    def run(url: str, name: str = "file.bin", settings: Settings = QUICK, **options: object) -> Path:
        file = RemoteFile(url, tmp_path, name, **options)  # type: ignore[arg-type]
        download([file], settings, recorder)
        return file.path

    return run


def some_bytes(count: int, seed: int = 0) -> bytes:
    """Bytes that do not compress or repeat."""
    return random.Random(seed).randbytes(count)
