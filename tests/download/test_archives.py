"""An archive becomes the one file it is downloaded for; nothing else of it is ever written."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from qinco_lit.downloads import RemoteFile, download
from qinco_lit.downloads.unpack import unpack
from tests.download.conftest import QUICK, some_bytes

CONTENT = some_bytes(2_500_000)


def _tar(*members: tuple[str, bytes | str]) -> bytes:
    """A tar.gz: bytes make a file, text a symbolic link to it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_gz(web, fetch, tmp_path, recorder):
    web.add("x.bvecs.gz", gzip.compress(CONTENT, 1))
    assert fetch(web.url("x.bvecs.gz"), "x.bvecs", size_bytes=len(CONTENT)).read_bytes() == CONTENT
    assert _names(tmp_path) == {"x.bvecs", "DOWNLOADS.json"}
    assert recorder.done["x.bvecs", "unpacking"] == len(CONTENT)


def test_gz_of_several_parts(web, fetch):
    web.add("x.gz", gzip.compress(CONTENT[:1000], 1) + gzip.compress(CONTENT[1000:], 1))
    assert fetch(web.url("x.gz"), "x").read_bytes() == CONTENT


def test_an_archive_that_is_wanted_as_such_is_kept(web, fetch):
    web.add("x.gz", gzip.compress(CONTENT, 1))
    assert gzip.decompress(fetch(web.url("x.gz"), "x.gz").read_bytes()) == CONTENT


@pytest.mark.parametrize("folder", ["", "gnd/", "./gnd/", "../../", "/tmp/"])
def test_tar_yields_the_member_of_this_name_from_any_folder(web, fetch, tmp_path, folder):
    other = (f"{folder}idx_1M.ivecs", b"another")
    web.add("gnd.tar.gz", _tar(other, (f"{folder}idx.ivecs", "/etc/passwd"), (f"{folder}idx.ivecs", CONTENT), other))
    assert fetch(web.url("gnd.tar.gz"), "gnd/idx.ivecs").read_bytes() == CONTENT
    assert _names(tmp_path) == {"gnd", "gnd/idx.ivecs", "DOWNLOADS.json"}


def test_tar_without_the_member(web, fetch, tmp_path):
    web.add("gnd.tar.gz", _tar(("gnd/a", b"a"), ("gnd/idx.ivecs", "/etc/passwd")))
    with pytest.raises(ValueError) as error:
        fetch(web.url("gnd.tar.gz"), "idx.ivecs")
    archive = tmp_path / "idx.ivecs.tar.gz.part"
    assert str(error.value) == f"{archive} holds no file idx.ivecs: only gnd/a, gnd/idx.ivecs"
    assert not (tmp_path / "idx.ivecs").exists()


def _cut(archive: bytes) -> bytes:
    return archive[:-2000]


def _bad_checksum(archive: bytes) -> bytes:
    return archive[:-8] + bytes(4) + archive[-4:]


def _garbage(archive: bytes) -> bytes:
    return archive[:100_000] + bytes(5000) + archive[105_000:]


def _page(archive: bytes) -> bytes:
    return b"<html>" * 1000


@pytest.mark.parametrize("damage", [_cut, _bad_checksum, _garbage, _page])
@pytest.mark.parametrize("kind", ["gz", "tar.gz"])
def test_a_damaged_archive_is_one_line_and_gives_no_file(web, fetch, tmp_path, kind, damage):
    whole = gzip.compress(CONTENT, 1) if kind == "gz" else _tar(("a/x", CONTENT), ("later", some_bytes(5000)))
    web.add(f"x.{kind}", damage(whole))
    with pytest.raises(ValueError) as error:
        fetch(web.url(f"x.{kind}"), "x")
    archive = tmp_path / f"x.{kind}.part"
    assert str(error.value).startswith(f"{archive} is damaged (")
    assert str(error.value).endswith("): remove it, then the same command fetches it anew")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()
    archive.unlink()
    web.add(f"x.{kind}", whole)
    assert fetch(web.url(f"x.{kind}"), "x").read_bytes() == CONTENT
    assert _names(tmp_path) == {"x", "DOWNLOADS.json"}


def test_an_unpacking_that_was_killed_starts_again_from_the_archive_on_disk(web, fetch, tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(CONTENT, 1))
    (tmp_path / "x.unpacking").write_bytes(some_bytes(3_000_000, 1))
    assert fetch(web.url("x.gz"), "x").read_bytes() == CONTENT  # no such file on the server: it is not asked


def test_an_unpacking_that_was_killed_starts_again_from_what_was_fetched(web, fetch, tmp_path):
    served = web.add("x.gz", gzip.compress(CONTENT, 1))
    with pytest.raises(ValueError, match="is refused"):
        fetch(web.url("x.gz"), "x", check=_refuse)
    (tmp_path / "x.unpacking").write_bytes(some_bytes(3_000_000, 1))
    served.requests.clear()
    assert fetch(web.url("x.gz"), "x").read_bytes() == CONTENT
    assert served.requests == []
    assert _names(tmp_path) == {"x", "DOWNLOADS.json"}


def _refuse(_: Path) -> None:
    raise ValueError("is refused")


def test_an_archive_of_the_user_is_kept(web, fetch, tmp_path, recorder):
    (tmp_path / "x.gz").write_bytes(archive := gzip.compress(CONTENT, 1))
    assert fetch(web.url("x.gz"), "x").read_bytes() == CONTENT
    fetch(web.url("x.gz"), "x")
    assert (tmp_path / "x.gz").read_bytes() == archive
    assert f"{tmp_path / 'x.gz'}: kept, as it was there before" in recorder.notes


def test_an_archive_beside_a_fetched_one_is_the_users(web, fetch, tmp_path):
    right = gzip.compress(CONTENT, 1)
    web.add("x.gz", _garbage(right))
    with pytest.raises(ValueError, match="is damaged"):
        fetch(web.url("x.gz"), "x")
    (tmp_path / "x.gz").write_bytes(right)
    assert fetch(web.url("x.gz"), "x").read_bytes() == CONTENT
    assert (tmp_path / "x.gz").read_bytes() == right


def test_room_for_the_archive_and_its_content_is_looked_for(web, fetch, recorder, tmp_path, monkeypatch):
    archive = web.add("x.gz", gzip.compress(CONTENT, 1)).content
    needed = len(archive) + len(CONTENT)
    file = RemoteFile(web.url("x.gz"), tmp_path, "x", len(CONTENT))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": needed - 1}))
    with pytest.raises(ValueError, match="are needed"):
        download([file], QUICK, recorder)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": needed}))
    download([file], QUICK, recorder)
    assert file.path.read_bytes() == CONTENT


def test_a_length_other_than_the_catalogues_after_unpacking(web, fetch, tmp_path):
    web.add("x.gz", gzip.compress(CONTENT, 1))
    with pytest.raises(ValueError) as error:
        fetch(web.url("x.gz"), "x", size_bytes=9)
    assert str(error.value) == (
        f"{tmp_path / 'x.gz.part'} holds more than the 9 bytes that the catalogue says: "
        "remove it to fetch it once more, or unpack it by hand if right"
    )
    assert _names(tmp_path) == {"x.gz.part", "x.gz.part.json"}
    with pytest.raises(ValueError) as error:
        fetch(web.url("x.gz"), "x", size_bytes=2_500_001)
    assert str(error.value) == (
        f"{web.url('x.gz')} has 2,500,000 bytes, the catalogue says 2,500,001: "
        f"remove {tmp_path / 'x.gz.part'} to fetch it once more, or make it {tmp_path / 'x'} by hand if right"
    )
    assert _names(tmp_path) == {"x.gz.part", "x.gz.part.json"}


def test_a_bomb_is_stopped_at_the_first_byte_over(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(50_000_000), 1))
    written: list[int] = []
    with pytest.raises(ValueError, match="holds more than the 3,000,000 bytes"):
        unpack(tmp_path / "x.gz", ".gz", "x", tmp_path / "out", written.append, 3_000_000)
    assert sum(written) <= 3_000_000


def test_members_that_cannot_be_the_file_are_passed_over(web, fetch, tmp_path):
    members = ("a/x", b"short"), ("__MACOSX/x", bytes(len(CONTENT)))
    web.add("x.tar.gz", _tar(*members, ("b/x", CONTENT)))
    assert fetch(web.url("x.tar.gz"), "x", size_bytes=len(CONTENT)).read_bytes() == CONTENT
    web.add("y.tar.gz", _tar(*((name.replace("x", "y"), content) for name, content in members)))
    with pytest.raises(ValueError) as error:
        fetch(web.url("y.tar.gz"), "y", size_bytes=len(CONTENT))
    assert str(error.value) == (
        f"{tmp_path / 'y.tar.gz.part'} holds no file y of 2,500,000 bytes: only a/y of 5 bytes, __MACOSX/y"
    )


def _sparse(map_: bytes) -> bytes:
    """A tar.gz with a sparse file x of 2,500,000 bytes, as GNU tar writes it for `--format=pax`."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("GNUSparseFile.0/x")
        entry.size = 512
        entry.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "x",
            "GNU.sparse.realsize": str(len(CONTENT)),
        }
        tar.addfile(entry, io.BytesIO(map_.ljust(512, b"\0")))
    return stream.getvalue()


def test_a_sparse_member_is_no_file(web, fetch, tmp_path):
    web.add("x.tar.gz", _sparse(b"1\n2500000\n0\n"))
    with pytest.raises(ValueError, match="holds no file x of 2,500,000 bytes: only x$"):
        fetch(web.url("x.tar.gz"), "x", size_bytes=len(CONTENT))


def test_numbers_in_a_tar_that_are_none(web, fetch, tmp_path):
    web.add("x.tar.gz", _sparse(b"one\n"))
    with pytest.raises(ValueError) as error:
        fetch(web.url("x.tar.gz"), "x")
    assert str(error.value).startswith(f"{tmp_path / 'x.tar.gz.part'} is damaged (")
    assert str(error.value).endswith("): remove it, then the same command fetches it anew")
