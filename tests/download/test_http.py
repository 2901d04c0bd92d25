"""Whatever a web server does, the file that stands under its name is the server's, byte for byte, or there is none."""

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from qinco_lit.downloads import RemoteFile, Settings, download, part
from qinco_lit.downloads.part import read_state
from qinco_lit.downloads.servers import BLOCK_BYTES, TemporaryError
from tests.download.conftest import QUICK, UNIT, some_bytes


def _left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("size", [1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 10 * UNIT + 7])
def test_bytes_are_those_of_the_server_whatever_the_blocks(web, fetch, tmp_path, size):
    served = web.add("x", some_bytes(size))
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.requests == ["bytes=0-", "bytes=0-"]  # the first shows what the server can do
    assert _left(tmp_path) == {"file.bin", "DOWNLOADS.json"}


def test_files_come_one_after_the_other(web, recorder, tmp_path):
    contents = {f"f{i}": some_bytes(2 * UNIT, i) for i in range(4)}
    files = []
    for name, content in contents.items():
        web.add(name, content)
        files.append(RemoteFile(web.url(name), tmp_path, f"sub/{name}"))
    download(files, QUICK, recorder)
    assert {name: (tmp_path / "sub" / name).read_bytes() for name in contents} == contents
    assert recorder.phases == [(f"sub/{name}", phase) for name in contents for phase in ("downloading", "checking")]
    assert all(recorder.done[f"sub/{name}", "downloading"] == 2 * UNIT for name in contents)


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_dropped_and_truncated_answers_are_taken_up_again(web, fetch, ranges, length):
    served = web.add("x", some_bytes(3 * UNIT), ranges=ranges, length=length, drop_after=40_000, drops=3)
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.drops == 0
    if ranges and length:
        assert served.requests[1:] == ["bytes=0-", "bytes=40000-", "bytes=80000-"]  # what had come is not asked again


def test_a_server_that_never_gets_further_is_given_up(web, fetch, tmp_path):
    web.add("x", some_bytes(UNIT), ranges=False, drop_after=1000, drops=99)
    with pytest.raises(ValueError, match="gave up") as error:
        fetch(web.url("x"))
    assert str(error.value) == (
        f"{web.url('x')}: the connection was closed 99,000 bytes early; gave up after 4 attempts without a new byte, "
        "the same command goes on from here"
    )
    assert not (tmp_path / "file.bin").exists()


def test_every_new_byte_gives_new_attempts(web, fetch):
    served = web.add("x", some_bytes(UNIT), drop_after=9_000, drops=11)
    assert fetch(web.url("x")).read_bytes() == served.content


def test_503_then_200(web, fetch, recorder):
    served = web.add("x", some_bytes(UNIT), statuses=[503, 200 + 229])  # 429: too many requests
    assert fetch(web.url("x")).read_bytes() == served.content
    assert web.answers == {503: 1, 429: 1}


def test_an_overloaded_server_in_the_middle(web, fetch):
    served = web.add("x", some_bytes(3 * UNIT), statuses=[0, 500, 502, 0, 504], drop_after=UNIT, drops=2)
    assert fetch(web.url("x")).read_bytes() == served.content
    assert web.answers == {500: 1, 502: 1, 504: 1}


def test_a_server_says_how_long_to_wait():
    run = Settings(pause_s=1.0)
    assert run.retry_pause_s(1, TemporaryError("busy", 7.0)) == 7.0
    assert all(0.5 <= run.retry_pause_s(1, TemporaryError("busy")) <= 1.0 for _ in range(20))
    assert all(30 <= run.retry_pause_s(20, TemporaryError("busy")) <= 60 for _ in range(20))


def test_503_forever_is_one_line(web, fetch):
    web.add("x", b"x", statuses=[503] * 99)
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"))
    assert str(error.value) == f"{web.url('x')}: the server answers 503 Service Unavailable; gave up after 3 attempts"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "404 Not Found: there is no such file"),
        (403, "403 Forbidden: the server does not give it out"),
        (401, "401 Unauthorized: it asks for a login"),
        (410, "410 Gone: the file was removed"),
        (418, "418 I'm a Teapot: it cannot be downloaded"),
    ],
)
def test_a_refusal_is_one_line_and_asked_for_once(web, fetch, tmp_path, status, text):
    served = web.add("x", b"x", statuses=[status])
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"))
    assert str(error.value).lower() == f"{web.url('x')} answers {text}".lower()
    assert (len(served.requests), _left(tmp_path)) == (1, set())


def test_a_web_page_in_place_of_the_file(web, fetch, tmp_path):
    web.add("x", b"<html>log in</html>", content_type="text/html; charset=utf-8")
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"))
    assert str(error.value) == f"{web.url('x')} answers with a web page, not with the file"
    assert _left(tmp_path) == set()


def test_an_empty_file(web, fetch):
    web.add("x", b"")
    with pytest.raises(ValueError, match="is an empty file"):
        fetch(web.url("x"))


def test_no_server(fetch):
    with pytest.raises(ValueError, match=r"http://127.0.0.1:1/x: no connection .*; gave up after 3 attempts"):
        fetch("http://127.0.0.1:1/x")


def test_other_schemes(fetch):
    with pytest.raises(ValueError, match="file:///etc/passwd: only http, https and ftp can be downloaded"):
        fetch("file:///etc/passwd")


@pytest.mark.parametrize("conditional", [True, False])
def test_a_file_that_changes_on_the_way_starts_again(web, fetch, recorder, conditional):
    served = web.add("x", some_bytes(5 * UNIT), conditional=conditional, drop_after=3 * UNIT, drops=2)
    changed = some_bytes(5 * UNIT, 1)

    def change() -> None:
        if recorder.done["file.bin", "downloading"] > 2 * UNIT:
            served.content = changed

    recorder.on_bytes = change
    assert fetch(web.url("x")).read_bytes() == changed
    assert "file.bin: changed on the server, starting again" in recorder.notes


@pytest.mark.parametrize("versioned", [True, False])
def test_a_file_that_changed_since_is_not_mixed_with_what_is_here(web, fetch, versioned):
    """Without a version, another length tells."""
    served = web.add("x", some_bytes(3 * UNIT), drop_after=UNIT // 2, drops=999, versioned=versioned)
    with pytest.raises(ValueError, match="gave up"):
        fetch(web.url("x"), settings=dataclasses.replace(QUICK, tries=1))
    served.content, served.drops = some_bytes(3 * UNIT + (not versioned), 1), 0
    assert fetch(web.url("x")).read_bytes() == served.content


def test_a_failed_download_goes_on_where_it_was(web, fetch, tmp_path):
    served = web.add("x", some_bytes(4 * UNIT), drop_after=UNIT // 2, drops=999)
    with pytest.raises(ValueError, match="gave up"):
        fetch(web.url("x"), settings=dataclasses.replace(QUICK, tries=1))
    assert "file.bin.part" in _left(tmp_path)
    assert "file.bin" not in _left(tmp_path)
    served.drops = 0
    served.requests.clear()
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.requests == ["bytes=0-", f"bytes={UNIT // 2}-"]


@pytest.mark.parametrize("damage", ["", "{}", '{"schema_version": 9, "segments": []}', None])
def test_a_part_whose_state_is_of_no_use_starts_again(web, fetch, tmp_path, damage):
    served = web.add("x", some_bytes(2 * UNIT))
    (tmp_path / "file.bin.part").write_bytes(bytes(2 * UNIT))
    if damage is not None:
        (tmp_path / "file.bin.part.json").write_text(damage)
    assert fetch(web.url("x")).read_bytes() == served.content


def test_a_part_that_is_shorter_than_its_state_says_starts_again(web, fetch, tmp_path):
    served = web.add("x", some_bytes(2 * UNIT), drop_after=UNIT // 2, drops=999)
    with pytest.raises(ValueError, match="gave up"):
        fetch(web.url("x"), settings=dataclasses.replace(QUICK, tries=1))
    os.truncate(tmp_path / "file.bin.part", 1000)
    served.drops = 0
    assert fetch(web.url("x")).read_bytes() == served.content


def test_a_length_other_than_the_catalogues_is_found_before_the_download(web, fetch, tmp_path):
    served = web.add("x", some_bytes(UNIT))
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"), size_bytes=UNIT + 1)
    assert str(error.value) == (
        f"{web.url('x')} has 100,000 bytes, the catalogue says 100,001: if the publisher changed it, "
        f"fetch it to {tmp_path / 'file.bin'} by hand"
    )
    assert len(served.requests) == 1
    assert _left(tmp_path) == set()


def test_a_file_that_fails_its_check_gets_no_name(web, fetch, tmp_path):
    def check(path: Path) -> None:
        if path.read_bytes() != b"right":
            raise ValueError("has wrong contents")

    web.add("x", b"wrong")
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"), check=check)
    path = tmp_path / "file.bin"
    assert str(error.value) == (
        f"{web.url('x')} has wrong contents: remove {path}.part to fetch it once more, "
        f"or make it {path} by hand if right"
    )
    assert not path.exists()


def test_other_files_are_finished_when_one_cannot_be_had(web, recorder, tmp_path):
    names = ["a", "missing", "b", "missing too"]
    for name in ("a", "b"):
        web.add(name, some_bytes(2 * UNIT))
    files = [RemoteFile(web.url(name.replace(" ", "%20")), tmp_path, name) for name in names]
    with pytest.raises(ValueError) as error:
        download(files, QUICK, recorder)
    assert str(error.value) == (
        f"{web.url('missing')} answers 404 Not Found: there is no such file "
        "(and of the 4 files, missing too failed too)"
    )
    assert _left(tmp_path) == {"a", "b", "DOWNLOADS.json"}


def test_what_is_there_is_not_fetched_again(web, fetch, tmp_path):
    served = web.add("x", some_bytes(UNIT))
    fetch(web.url("x"))
    before = len(served.requests)
    fetch(web.url("x"))
    assert len(served.requests) == before


def test_a_file_of_the_wrong_length_is_not_taken_for_the_right_one(web, fetch, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"cut")
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"), size_bytes=5)
    path = tmp_path / "file.bin"
    assert str(error.value) == f"{path} has 3 bytes, the catalogue says 5: remove it to download it again"
    assert path.read_bytes() == b"cut"


def test_redirects_are_followed(web, fetch):
    served = web.add("x", some_bytes(2 * UNIT))
    web.add("old", b"", statuses=[302] * 9, headers={"Location": web.url("x")})
    assert fetch(web.url("old")).read_bytes() == served.content


# --- the disk --------------------------------------------------------------------------------------------------------


def test_room_is_looked_for_first(web, fetch, tmp_path, monkeypatch):
    served = web.add("x", some_bytes(UNIT))
    usage = type("Usage", (), {"free": 99_999})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"))
    assert str(error.value) == (
        f"{tmp_path} has 100.0 kB free, 100.0 kB are needed (archives and what is in them): "
        "make room or choose another folder"
    )
    assert len(served.requests) == 1
    usage.free = 100_000
    assert fetch(web.url("x")).read_bytes() == served.content


def test_room_for_what_is_left_is_enough(web, fetch, monkeypatch):
    served = web.add("x", some_bytes(4 * UNIT), drop_after=UNIT // 2, drops=999)
    with pytest.raises(ValueError, match="gave up"):
        fetch(web.url("x"), settings=dataclasses.replace(QUICK, tries=1))
    served.drops = 0
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 4 * UNIT - UNIT // 2}))
    assert fetch(web.url("x")).read_bytes() == served.content


def test_a_disk_that_fills_up_is_one_line_and_the_download_goes_on_later(web, fetch, tmp_path, monkeypatch):
    served = web.add("x", some_bytes(4 * UNIT), block=10_000)
    write, room = os.pwrite, [2 * UNIT]

    def limited(descriptor: int, block: bytes, position: int) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(descriptor, block[: room[0]], position)  # a full disk takes what still fits
        room[0] -= count
        return count

    monkeypatch.setattr(os, "pwrite", limited)
    with pytest.raises(OSError) as error:
        fetch(web.url("x"))
    text = "No space left on device; make room, then the same command goes on from here"
    assert str(error.value) == f"[Errno {errno.ENOSPC}] {tmp_path / 'file.bin'}: {text}"
    monkeypatch.undo()
    kept = read_state(tmp_path / "file.bin.part")["done"]
    assert kept == 2 * UNIT
    served.requests.clear()
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.requests == ["bytes=0-", f"bytes={kept}-"]


def test_the_state_never_claims_what_is_not_written(web, fetch, tmp_path, recorder, monkeypatch):
    served = web.add("x", some_bytes(5 * UNIT), block=10_000)
    flushed, written, fsync = [0], tmp_path / "file.bin.part", os.fsync
    monkeypatch.setattr(part, "_SAVE_EVERY_S", 0.0)

    def note(descriptor: int) -> None:
        fsync(descriptor)
        if written.exists() and os.path.samestat(os.fstat(descriptor), written.stat()):
            flushed.append(written.stat().st_size)

    monkeypatch.setattr(os, "fsync", note)
    looked = []

    def look() -> None:
        looked.append(read_state(written)["done"])
        assert looked[-1] == flushed[-1]
        assert written.read_bytes()[: looked[-1]] == served.content[: looked[-1]]

    recorder.on_bytes = look
    fetch(web.url("x"))
    assert looked == sorted(looked)
    assert looked[-1] == 5 * UNIT
