"""What one process holds, another one is refused, or waits for; nothing is left of it."""

import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from qinco_lit.locks import is_held, locked, only_writer


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


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_a_lock_is_open_to_whom_the_user_lets_in(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with locked(tmp_path / "lock", busy=""):
            assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o666 & ~umask
    finally:
        os.umask(before)
