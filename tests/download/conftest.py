"""Servers of this machine and a record of what a download says."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qinco_lit.downloads import RemoteFile, Settings, download
from qinco_lit.progress import Progress
from tests.cli.conftest import qinco, refused  # noqa: F401 (fixtures)
from tests.download.ftp_files import FtpFiles, ftp_files
from tests.download.http_files import HttpFiles, http_files

UNIT = 100_000  # bytes
QUICK = Settings(timeout_s=5.0, tries=4, pause_s=0.01)


class Recorder(Progress):
    """A progress that remembers, by the phase (downloading, checking, unpacking) and the file's name."""

    def __init__(self) -> None:
        super().__init__("bytes", show=False)
        self.notes: list[str] = []
        self.phases: list[tuple[str, str]] = []
        self.done: dict[tuple[str, str], int] = {}
        self.began: dict[tuple[str, str], int] = {}
        self.on_bytes: Callable[[], None] = lambda: None

    def start(self, what: str, total: int | None, *, done: int = 0) -> None:
        phase, _, name = what.partition(" ")
        self.phases.append((name, phase))
        self.done[name, phase] = self.began[name, phase] = done

    def advance(self, units: int = 1, *, what: str | None = None) -> None:
        self.done[self.phases[-1]] += units
        self.on_bytes()

    def note(self, text: str) -> None:
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
