"""Folders that cannot take files, disks that are not mounted, file systems without locks."""

import errno
import fcntl
import json
import os

import pytest

from qinco_lit.downloads import RemoteFile, download, verify
from tests.download.conftest import QUICK, some_bytes


@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_a_link_to_a_disk_that_is_not_there_is_not_replaced(web, fetch, tmp_path, recorder, name):
    served = web.add("x.gz", some_bytes(100))
    link = tmp_path / name
    link.symlink_to("/unmounted/x")
    line = f"{link} is a link to /unmounted/x, which is not there: bring that back or remove the link"
    with pytest.raises(ValueError) as error:
        fetch(web.url("x.gz"), "x")
    assert str(error.value) == line
    assert served.requests == []
    assert str(link.readlink()) == "/unmounted/x"
    assert list(tmp_path.iterdir()) == [link]
    if name == "x":
        with pytest.raises(ValueError) as error:
            verify([RemoteFile(web.url("x.gz"), tmp_path, "x")], recorder)
        assert str(error.value) == line


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file", "Not a directory"),
        ("file/sub", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("/proc/sub", "No such file or directory"),
        ("link", "File exists"),
    ],
)
def test_an_impossible_place_is_one_line(refused, tmp_path, place, reason):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("/unmounted")
    assert refused("download", "qinco1-deep1M-8x8", "--data-dir", place) == (
        f"{place}/checkpoints/qinco1-deep1M-8x8.pt cannot be used ({reason}): choose another place (--data-dir)"
    )


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_once(web, recorder, tmp_path, monkeypatch, caplog, code):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    files = [RemoteFile(web.url(name), tmp_path, name) for name in "abcdefgh"]
    for file in files:
        web.add(file.name, file.name.encode())
    download(files, QUICK, recorder)
    assert list(json.loads((tmp_path / "DOWNLOADS.json").read_text())["files"]) == list("abcdefgh")
    assert caplog.messages == [f"{tmp_path}: the file system has no locks; let no other process work on the same files"]


def test_other_faults_of_a_lock_stop(web, fetch, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"))
    assert str(error.value) == (
        f"{tmp_path / 'file.bin'} cannot be used (Input/output error): choose another place (--data-dir)"
    )
