"""A directory is replaced as a whole: the old one stands until the new one does, also where a rename fails."""

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qinco_lit import atomic, locks
from qinco_lit.atomic import put_back, replacing, replacing_directory


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


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on network file systems."""
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.usefixtures("no_exchange")
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


def leftover(path: Path) -> Path:
    """As a process that was killed leaves it, while it filled `path` or removed the old one."""
    folder = path.with_name(f".{path.name}.{'0a' * 6}.tmp")
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "inner").write_text("half")
    return folder


def test_who_writes_or_reads_next_removes_leftovers(tmp_path: Path) -> None:
    left = leftover(tmp_path / "a")
    other = leftover(tmp_path / "b")
    fill(tmp_path / "a", "new")
    assert not left.exists()
    leftover(tmp_path / "a")
    put_back(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a", other.name}
    file = other.with_name(left.name)
    file.write_text("of a file that is written under this name")
    put_back(tmp_path / "a")
    assert file.exists()


def test_what_a_living_process_fills_stays(tmp_path: Path) -> None:
    with replacing_directory(tmp_path / "a") as first:
        with replacing_directory(tmp_path / "a") as second:
            put_back(tmp_path / "a")
            assert first.is_dir()
            (second / "of").write_text("second")
        assert contents(tmp_path / "a") == {"of": "second"}
        put_back(tmp_path / "a")
        (first / "of").write_text("first")
    assert contents(tmp_path) == {"a/of": "first"}


def test_one_that_is_taken_for_a_leftover_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process looks between the making and the marking of a directory."""
    make, looked = Path.mkdir, []

    def mkdir(path: Path, *options: int | bool, **named: int | bool) -> None:
        make(path, *options, **named)
        if path.suffix == ".tmp" and not looked:
            looked.append(path)
            atomic.remove_leftovers(tmp_path / "a")
            assert not path.exists()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    fill(tmp_path / "a", "new")
    assert looked
    assert contents(tmp_path) == {"a/part/inner": "new", "a/outer": "new"}


def test_where_directories_cannot_be_locked_leftovers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = leftover(tmp_path / "a")

    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, "as of NFS")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    fill(tmp_path / "a", "new")
    put_back(tmp_path / "a")
    assert left.exists()
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


# --- several processes, killed at any time ---------------------------------------------------------------------------

_REPLACE = """
import sys
from pathlib import Path
from qinco_lit import atomic, locks
if sys.argv[2] == "aside":
    atomic._exchange = lambda *_: False
for count in range(int(sys.argv[4])):
    with atomic.replacing_directory(Path(sys.argv[1])) as folder:
        for name in ("one", "two"):
            (folder / name).write_text(f"{sys.argv[3]}-{count}")
"""
HOW = pytest.mark.parametrize("how", ["exchange", "aside"])


def _writer(folder: Path, how: str, name: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _REPLACE, str(folder), how, name, str(count)])


@HOW
def test_processes_that_replace_one_directory_all_succeed(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    fill(folder, "old")
    writers = [_writer(folder, how, str(number), 150) for number in range(3)]
    missed = looks = 0
    while any(writer.poll() is None for writer in writers):
        looks, missed = looks + 1, missed + (not folder.exists())
        time.sleep(0.0005)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert looks > 20
    assert how == "aside" or missed == 0  # at no moment is there none
    assert len({path.read_text() for path in folder.iterdir()}) == 1
    assert contents(tmp_path).keys() == {"a/one", "a/two"}
    assert contents(tmp_path)["a/one"].endswith("-149")


@HOW
def test_processes_that_make_one_directory_all_succeed(how: str, tmp_path: Path) -> None:
    for number in range(3):
        writers = [_writer(tmp_path / str(number), how, str(own), 1) for own in range(3)]
        assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert contents(tmp_path).keys() == {f"{number}/{name}" for number in range(3) for name in ("one", "two")}


@HOW
def test_a_kill_at_any_time_leaves_a_whole_directory(how: str, tmp_path: Path) -> None:
    folder, generator = tmp_path / "a", random.Random(0)
    fill(folder, "old")
    for _ in range(12):
        writer = _writer(folder, how, "new", 10**6)
        before = folder.stat().st_ino
        while writer.poll() is None and (not folder.exists() or folder.stat().st_ino == before):
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.01))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        put_back(folder)  # as who reads it does
        assert len({path.read_text() for path in folder.iterdir()}) == 1
    assert _writer(folder, how, "last", 1).wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.usefixtures("no_exchange")
def test_what_stepped_aside_before_a_kill_is_put_back(tmp_path: Path) -> None:
    for name in ("a", "b[0]", "c"):
        fill(tmp_path / name, name)
        (tmp_path / name).rename(tmp_path / f".{name}.{'0a' * 6}.old")
    put_back(tmp_path / "b[0]")
    assert contents(tmp_path / "b[0]") == {"part/inner": "b[0]", "outer": "b[0]"}
    put_back(tmp_path / "d")  # nothing of it is there
    with pytest.raises(KeyError), replacing_directory(tmp_path / "c"):
        raise KeyError
    put_back(tmp_path / "c")
    assert contents(tmp_path / "c") == {"part/inner": "c", "outer": "c"}
    fill(tmp_path / "a", "new")
    assert contents(tmp_path / "a") == {"part/inner": "new", "outer": "new"}
    fill(tmp_path / "a", "newer")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b[0]", "c"}


def test_readers_put_a_directory_back(tmp_path: Path) -> None:
    from qinco_lit.codec_folder import check_is_codec
    from qinco_lit.search.index.bundle import read_config

    for read, file in ((check_is_codec, "weights.safetensors"), (read_config, "config.json")):
        aside = tmp_path / f".{file}x.{'0' * 12}.old"
        aside.mkdir()
        (aside / file).write_text("")
        with pytest.raises((FileNotFoundError, ValueError)):
            read(tmp_path / f"{file}x")
        assert (tmp_path / f"{file}x" / file).exists()


def test_a_folder_that_cannot_be_written_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f".a.{'0' * 12}.old").mkdir()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(atomic, "locked", refuse)
    put_back(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_file_is_flushed_before_its_rename_and_its_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[str, bool]] = []
    monkeypatch.setattr(atomic, "_fsync", lambda path: flushed.append((path.name, (tmp_path / "a").exists())))
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert flushed == [(temporary.name, False), (tmp_path.name, True)]
