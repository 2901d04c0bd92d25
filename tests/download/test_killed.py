"""A download that is killed goes on with what it has; two of the same file do not get into each other's way."""

import gzip
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qinco_lit.downloads.part import read_state
from tests.download.conftest import UNIT, some_bytes

JOB = Path(__file__).parent / "fetch_job.py"


def _start(folder: Path, *files: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(JOB), str(folder), *files]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait(condition, what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


@pytest.mark.parametrize("packed", [False, True])
def test_sigkill_again_and_again(web, tmp_path, packed):
    content = some_bytes(20 * UNIT)
    name = "x.bin.gz" if packed else "x.bin"
    served = web.add(name, gzip.compress(content, 0) if packed else content, block=5_000, pause_s=0.002)
    part, kept = tmp_path / f"{name}.part", 0
    for share in (5, 12):
        job = _start(tmp_path, f"{web.url(name)}=x.bin")
        _wait(lambda least=share: read_state(part)["done"] >= least * UNIT, "no progress")
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
        job.communicate()
        _wait(lambda: web.busy == 0, "the server goes on")
        assert read_state(part)["done"] >= max(kept, share * UNIT)
        kept = read_state(part)["done"]
        assert not (tmp_path / "x.bin").exists()
    served.pause_s = 0
    served.requests.clear()
    _, errors = (job := _start(tmp_path, f"{web.url(name)}=x.bin")).communicate()
    assert job.returncode == 0, errors
    assert (tmp_path / "x.bin").read_bytes() == content
    assert served.requests == ["bytes=0-", f"bytes={kept}-"]  # what was flushed is not fetched again
    assert {path.name for path in tmp_path.iterdir()} == {"x.bin", "DOWNLOADS.json"}


def test_ctrl_c_keeps_every_byte(web, tmp_path):
    served = web.add("x", some_bytes(20 * UNIT), block=5_000, pause_s=0.002)
    job = _start(tmp_path, f"{web.url('x')}=x")
    _wait(lambda: served.sent > 3 * UNIT, "no progress")
    began = time.monotonic()
    job.send_signal(signal.SIGINT)
    assert job.wait() == 130
    assert time.monotonic() - began < 5
    job.communicate()
    part = (tmp_path / "x.part").read_bytes()
    assert read_state(tmp_path / "x.part")["done"] == len(part) > 2 * UNIT
    assert part == served.content[: len(part)]
    assert {path.name for path in tmp_path.iterdir()} == {"x.part", "x.part.json"}


def test_ctrl_c_while_a_server_is_silent(web, tmp_path):
    served = web.add("x", some_bytes(UNIT), block=10_000, pause_s=30)
    job = _start(tmp_path, f"{web.url('x')}=x")
    _wait(lambda: served.sent > 1, "no progress")
    began = time.monotonic()
    job.send_signal(signal.SIGINT)
    assert job.wait() == 130
    assert time.monotonic() - began < 8
    job.communicate()


def test_two_downloads_of_one_file(web, tmp_path):
    served = web.add("x", some_bytes(10 * UNIT), block=5_000, pause_s=0.05)
    web.add("y", b"y")
    first = _start(tmp_path, f"{web.url('x')}=x")
    _wait(lambda: served.sent > UNIT, "no progress")
    second = _start(tmp_path, f"{web.url('y')}=y", f"{web.url('x')}=x")
    _, errors = second.communicate()
    assert (second.returncode, errors) == (1, f"{tmp_path / 'x'} is being downloaded by another process\n")
    served.pause_s = 0
    _, errors = first.communicate()
    assert first.returncode == 0, errors
    assert (tmp_path / "x").read_bytes() == served.content
    assert served.requests == ["bytes=0-", "bytes=0-"]
    assert {path.name for path in tmp_path.iterdir()} == {"x", "DOWNLOADS.json"}
