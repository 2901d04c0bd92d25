"""What one process holds, another one is refused, or waits for; nothing is left of it."""

import errno
import fcntl
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qinco_lit.locks import is_held, locked, locked_with_children, only_writer


def test_a_second_writer_is_refused_in_one_line(tmp_path: Path) -> None:
    output = tmp_path / "codes.h5"
    with only_writer(output):
        with pytest.raises(ValueError) as refusal, only_writer(output):
            pass
        with pytest.raises(ValueError), only_writer(output, shared=True):
            pass
    assert str(refusal.value) == f"{output}: another process writes it; wait for that one, or name another output"
    assert list(tmp_path.iterdir()) == []


def test_who_shares_keeps_only_those_out_who_do_not(tmp_path: Path) -> None:
    output, lock = tmp_path / "index", tmp_path / ".index.lock"
    with only_writer(output, shared=True):
        with only_writer(output, shared=True), pytest.raises(ValueError), only_writer(output):
            pass
        assert is_held(lock) is False  # to those who would share it
        with pytest.raises(ValueError), only_writer(output):
            pass
    assert list(tmp_path.iterdir()) == []
    with only_writer(output):
        assert is_held(lock)
    assert not is_held(lock)


def test_who_waits_says_so_and_comes_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "lock", busy="waiting", wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with caplog.at_level(logging.INFO), locked(tmp_path / "lock", busy=""):
        thread.start()
        while "waiting" not in caplog.messages:
            pass
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_an_output_without_a_folder_makes_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"), only_writer(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "reason"), [("/proc/x.npy", "No such file or directory"), ("n" * 300, "File name too long")]
)
def test_an_output_that_cannot_be_written_is_one_line(
    output: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=rf"^{output} cannot be written \({reason}\): name another output$"):
        only_writer(Path(output)).__enter__()


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_a_lock_is_open_to_whom_the_user_lets_in(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with locked(tmp_path / "lock", busy=""):
            assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o666 & ~umask
    finally:
        os.umask(before)


_HOLD = """
import subprocess, sys
from pathlib import Path
from qinco_lit.locks import locked, locked_with_children
how, path, child = sys.argv[1:]
with locked(Path(path), busy="") if how == "alone" else locked_with_children(Path(path)) as held:
    keeps = (held,) if how == "children" else ()
    process = subprocess.Popen(["sleep", "60"], pass_fds=keeps) if child == "child" else None
    print(process.pid if process else 0, flush=True)
    sys.stdin.read()
"""


def _holder(how: str, path: Path, child: str = "") -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-c", _HOLD, how, str(path), child]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    return holder, int(holder.stdout.readline())


@pytest.mark.parametrize("how", ["alone", "children"])
def test_what_a_killed_process_leaves_blocks_nobody(how: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder, _ = _holder(how, lock)
    assert is_held(lock)
    with pytest.raises(ValueError, match="^held$"), locked(lock, busy="held"):
        pass
    with locked_with_children(lock) as descriptor:
        assert descriptor is None
    holder.kill()
    holder.communicate()
    assert lock.exists()  # a file without a holder
    assert not is_held(lock)
    with locked(lock, busy="held") as is_locked:
        assert is_locked
    assert not lock.exists()


@pytest.mark.parametrize("how", ["alone", "children"])
def test_a_child_holds_on_to_what_it_was_given(how: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder, child = _holder(how, lock, "child")
    holder.kill()
    try:
        holder.wait()
        assert is_held(lock) == (how == "children")
    finally:
        os.kill(child, signal.SIGKILL)
    holder.communicate()
    while is_held(lock):
        pass


def test_threads_that_come_and_go_are_one_at_a_time(tmp_path: Path) -> None:
    inside, most, entered = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, entered
        for _ in range(100):
            with locked(tmp_path / "lock", busy="", wait=True):
                inside, entered = inside + 1, entered + 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, entered) == (1, 400)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shared", [True, False])
def test_a_file_system_without_locks_is_told_once_and_gone_on_with(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for name in "ab":
        with locked(tmp_path / name, busy="", shared=shared) as is_locked, locked(tmp_path / name, busy=""):
            assert not is_locked
            assert not is_held(tmp_path / name)
        with locked_with_children(tmp_path / name) as descriptor:
            assert descriptor is not None
    assert caplog.messages == [f"{tmp_path}: the file system has no locks; let no other process work on the same files"]
