"""DOWNLOADS.json: the checksum of the first sight is what later files are held against."""

import dataclasses
import gzip
import hashlib
import json
import threading
from datetime import datetime
from pathlib import Path

import pytest

from qinco_lit.downloads import RemoteFile, download, verify
from qinco_lit.downloads.manifest import Entry, Manifest
from tests.download.conftest import QUICK, UNIT, some_bytes


def _entry(folder, name="file.bin"):
    return json.loads((folder / "DOWNLOADS.json").read_text())["files"][name]


def test_what_is_kept(web, fetch, tmp_path):
    served = web.add("x", some_bytes(UNIT))
    fetch(web.url("x"))
    entry = _entry(tmp_path)
    assert datetime.fromisoformat(entry.pop("recorded")).tzinfo is not None
    assert entry == {
        "url": web.url("x"),
        "size_bytes": UNIT,
        "sha256": hashlib.sha256(served.content).hexdigest(),
        "downloaded": True,
        "version": served.etag,
    }


def test_a_second_download_must_be_the_same_file(web, fetch, tmp_path):
    served = web.add("x", some_bytes(UNIT))
    path = fetch(web.url("x"))
    first = _entry(tmp_path)
    path.unlink()
    assert fetch(web.url("x")).read_bytes() == served.content
    assert _entry(tmp_path) == first
    path.unlink()
    served.content = some_bytes(UNIT, 1)
    new = hashlib.sha256(served.content).hexdigest()
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"))
    assert str(error.value) == (
        f"{web.url('x')} is another file than on {first['recorded'][:10]}: SHA-256 {new}, then {first['sha256']}; "
        f"remove {path}.part to fetch it once more, "
        f"or the entry of file.bin in {tmp_path / 'DOWNLOADS.json'} to accept it"
    )
    assert not path.exists()
    (tmp_path / "DOWNLOADS.json").unlink()  # accepted: what was fetched is used, not fetched again
    before = served.sent
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.sent <= before + 1


def test_verify_finds_a_flipped_bit(web, fetch, tmp_path, recorder):
    web.add("x", some_bytes(UNIT))
    path = fetch(web.url("x"))
    file, entry = RemoteFile(web.url("x"), tmp_path, "file.bin"), _entry(tmp_path)
    verify([file], recorder)
    assert recorder.notes[-1] == f"{path}: as on {entry['recorded'][:10]} ({entry['sha256'][:12]}…)"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        verify([file], recorder)
    digest = hashlib.sha256(content).hexdigest()
    assert str(error.value) == f"{path} is damaged: SHA-256 {digest}, {entry['sha256']} on {entry['recorded']}"


def test_verify_names_all_that_is_damaged(web, tmp_path, recorder):
    files = [RemoteFile(web.url(name), tmp_path, name) for name in "abc"]
    for file in files:
        web.add(file.name, b"right")
    download(files, QUICK, recorder)
    (tmp_path / "a").write_bytes(b"short")
    (tmp_path / "b").write_bytes(b"cut")
    recorder.notes.clear()
    with pytest.raises(ValueError) as error:
        verify(files, recorder)
    first, second = str(error.value).split("; ")
    assert first.startswith(f"{tmp_path / 'a'} is damaged: SHA-256 ")
    assert second == f"{tmp_path / 'b'} has 3 bytes, DOWNLOADS.json says 5: remove it to download it again"
    assert [note.split(": ")[0] for note in recorder.notes] == [str(tmp_path / "c")]
    (tmp_path / "DOWNLOADS.json").write_text("")
    with pytest.raises(ValueError) as error:
        verify(files, recorder)
    assert str(error.value).count("is damaged") == 1


def test_verify_records_a_file_that_somebody_put_there(tmp_path, recorder):
    file = RemoteFile("http://nowhere/x", tmp_path, "sub/x", 3)
    file.path.parent.mkdir()
    file.path.write_bytes(b"abc")
    verify([file], recorder)
    assert _entry(tmp_path, "sub/x")["downloaded"] is False
    assert _entry(tmp_path, "sub/x")["sha256"] == hashlib.sha256(b"abc").hexdigest()
    file.path.write_bytes(b"abd")
    with pytest.raises(ValueError, match="is damaged"):
        verify([file], recorder)


def test_verify_of_what_is_missing(tmp_path, recorder):
    with pytest.raises(FileNotFoundError) as error:
        verify([RemoteFile("http://nowhere/x", tmp_path, "x")], recorder)
    assert str(error.value) == f"{tmp_path / 'x'} is missing: the same command without --verify brings it"


def test_a_file_cut_after_the_download(web, fetch, tmp_path):
    web.add("x", some_bytes(UNIT))
    path = fetch(web.url("x"))
    path.write_bytes(b"cut")
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"))
    assert str(error.value) == (f"{path} has 3 bytes, DOWNLOADS.json says 100,000: remove it to download it again")


_RIGHT = {"url": "u", "size_bytes": 1, "sha256": "s", "recorded": "r", "downloaded": True}


def _manifest(entry: object, version: int = 1) -> str:
    return json.dumps({"schema_version": version, "files": {"file.bin": entry}})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"files": []}',
        '{"schema_version": 1, "files": []}',
        _manifest({"url": 1}),
        _manifest([]),
        _manifest(_RIGHT, version=2),
        *(_manifest({**_RIGHT, name: 7.5}) for name in (*_RIGHT, "version", "unknown")),
        _manifest({**_RIGHT, "size_bytes": True}),
    ],
)
def test_a_damaged_manifest_stops_before_the_download(web, fetch, tmp_path, content):
    served = web.add("x", b"x")
    (tmp_path / "DOWNLOADS.json").write_text(content)
    with pytest.raises(ValueError, match=r"DOWNLOADS.json is damaged, .* cannot be read: repair or remove it"):
        fetch(web.url("x"))
    assert served.requests == []


def test_no_entry_is_lost_when_many_record_at_once(tmp_path):
    manifest, entry = Manifest(tmp_path), Entry("u", 1, "s", "r", downloaded=True)
    names = [f"f{i}" for i in range(30)]
    threads = [threading.Thread(target=manifest.record, args=(name, entry)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(manifest.entry(name) == entry for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["DOWNLOADS.json"]


def test_one_manifest_for_a_set(web, tmp_path, recorder):
    for name in "abc":
        web.add(name, some_bytes(1000, ord(name)))
    download([RemoteFile(web.url(name), tmp_path, f"sub/{name}") for name in "abc"], QUICK, recorder)
    assert list(json.loads((tmp_path / "DOWNLOADS.json").read_text())["files"]) == ["sub/a", "sub/b", "sub/c"]
    assert dataclasses.asdict(Manifest(tmp_path).entry("sub/a"))["size_bytes"] == 1000


def test_what_a_kill_at_the_very_end_has_left_goes(web, fetch, tmp_path):
    def refuse(_: Path) -> None:
        raise ValueError("is refused")

    web.add("x.gz", gzip.compress(b"x" * 1000))
    with pytest.raises(ValueError, match="is refused"):
        fetch(web.url("x.gz"), "x", check=refuse)
    left = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path.name for path in left} == {"x.gz.part", "x.gz.part.json"}
    fetch(web.url("x.gz"), "x")
    assert {path.name for path in tmp_path.iterdir()} == {"x", "DOWNLOADS.json"}
    for path, content in left.items():
        path.write_bytes(content)
    fetch(web.url("x.gz"), "x")
    assert {path.name for path in tmp_path.iterdir()} == {"x", "DOWNLOADS.json"}
    (tmp_path / "DOWNLOADS.json").unlink()
    (tmp_path / "x.gz").write_bytes(b"of the user")
    fetch(web.url("x.gz"), "x")
    assert {path.name for path in tmp_path.iterdir()} == {"x", "x.gz"}
