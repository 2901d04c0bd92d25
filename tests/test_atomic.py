"""A directory is replaced as a whole: the old one stands until the new one does, also where a rename fails."""

import errno
import os
import stat
from pathlib import Path

import pytest

from qinco_lit import atomic
from qinco_lit.atomic import replacing_directory


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder, hidden names too."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, text: str) -> None:
    with replacing_directory(folder) as temporary:
        (temporary / "part").mkdir()
        (temporary / "part" / "inner").write_text(text)
        (temporary / "outer").write_text(text)


def test_an_old_directory_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    fill(tmp_path / "deep" / "a", "one")
    fill(tmp_path / "deep" / "a", "two")
    assert contents(tmp_path) == {"deep/a/part/inner": "two", "deep/a/outer": "two"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]


@pytest.mark.parametrize("failing", [1, 2])
def test_the_old_directory_is_back_when_a_rename_fails(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "a", "old")
    rename, calls = Path.rename, []

    def refuse(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        fill(tmp_path / "a", "new")
    assert contents(tmp_path) == {"a/part/inner": "old", "a/outer": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_block_leaves_what_was_there(tmp_path: Path) -> None:
    fill(tmp_path / "a", "old")
    with pytest.raises(FileNotFoundError), replacing_directory(tmp_path / "a") as temporary:
        (temporary / "nowhere" / "outer").write_text("new")
    assert contents(tmp_path) == {"a/part/inner": "old", "a/outer": "old"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link_and_what_it_names_is_replaced(there: bool, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    if there:
        fill(tmp_path / "disk" / "a", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "a")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "disk") == {"a/part/inner": "new", "a/outer": "new"}
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "link"}


def test_a_leftover_of_a_killed_process_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.os, "getpid", lambda: 7)
    fill(tmp_path / ".a.old-7", "left")
    fill(tmp_path / "a", "old")
    fill(tmp_path / "a", "new")
    assert contents(tmp_path / "a") == {"part/inner": "new", "outer": "new"}


def test_an_old_directory_that_cannot_be_removed_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a", "old")
    remove = atomic.shutil.rmtree

    def busy(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.EBUSY, "Device or resource busy")
        remove(path, ignore_errors=True)

    monkeypatch.setattr(atomic.shutil, "rmtree", busy)
    fill(tmp_path / "a", "new")
    assert contents(tmp_path / "a") == {"part/inner": "new", "outer": "new"}


def test_a_file_under_the_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(NotADirectoryError):
        fill(tmp_path / "a", "new")
    assert contents(tmp_path) == {"a": "mine"}


def test_all_is_flushed_before_the_rename_and_the_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[str, bool]] = []
    monkeypatch.setattr(atomic, "_fsync", lambda path: flushed.append((path.name, (tmp_path / "a").exists())))
    with replacing_directory(tmp_path / "a") as temporary:
        (temporary / "part").mkdir()
        (temporary / "part" / "inner").write_text("new")
        (temporary / "outer").write_text("new")
    assert set(flushed[:-1]) == {(name, False) for name in ("part", "inner", "outer", temporary.name)}
    assert flushed[-1] == (tmp_path.name, True)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_who_may_read_it_is_for_the_users_umask_to_say(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with replacing_directory(tmp_path / "a") as temporary:
            (temporary / "part").mkdir()
            for name in ("part/inner", "outer"):
                (temporary / name).touch(mode=0o600)  # as the writer of safetensors
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "a", *(tmp_path / "a").rglob("*")]}
    folder, file = 0o777 & ~umask, 0o666 & ~umask
    assert modes == {"a": folder, "part": folder, "inner": file, "outer": file}
