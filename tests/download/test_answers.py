"""Answers of a web server that are not, or not surely, the bytes of the file."""

import pytest

from tests.download.conftest import UNIT, some_bytes


@pytest.mark.parametrize("ranges", [True, False])
def test_a_compressed_answer_is_refused(web, fetch, tmp_path, ranges):
    web.add("x", some_bytes(UNIT), ranges=ranges, headers={"Content-Encoding": "gzip"})
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"))
    assert str(error.value) == (
        f"{web.url('x')} comes with Content-Encoding gzip, which was not asked for: fetch it by hand"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "coding"), [("x", "identity"), ("x.gz", "x-gzip"), ("x.gz", "gzip")])
def test_the_bytes_as_stored_are_taken(web, fetch, path, coding):
    served = web.add(path, some_bytes(UNIT), headers={"Content-Encoding": coding})
    assert fetch(web.url(path), path).read_bytes() == served.content


@pytest.mark.parametrize("status", [202, 203, 204])
def test_an_answer_that_is_not_the_file(web, fetch, tmp_path, status):
    web.add("x", some_bytes(UNIT), ranges=False, status=status)
    with pytest.raises(ValueError, match=rf"/x answers {status} .*, not with the file$"):
        fetch(web.url("x"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content_type": "text/html"}, "answers with a web page, not with the file"),
        ({"headers": {"Content-Encoding": "br"}}, "comes with Content-Encoding br, which was not asked for"),
    ],
)
def test_an_answer_that_turns_into_another_kind_on_the_way(web, fetch, tmp_path, recorder, change, message):
    served = web.add("x", some_bytes(3 * UNIT), versioned=False, drop_after=UNIT, drops=2)

    def turn() -> None:
        for name, value in change.items():
            setattr(served, name, value)

    recorder.on_bytes = turn
    with pytest.raises(ValueError, match=message):
        fetch(web.url("x"))
    assert not (tmp_path / "file.bin").exists()


def test_a_server_that_refuses_ranges_with_416_is_asked_without(web, fetch):
    served = web.add("x", some_bytes(UNIT), ranges=False, statuses=[416])
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.requests == ["bytes=0-", "", ""]


def test_a_server_that_says_that_the_file_is_empty_is_believed(web, fetch):
    served = web.add("x", b"", statuses=[416], headers={"Content-Range": "bytes */0"})
    with pytest.raises(ValueError, match="is an empty file$"):
        fetch(web.url("x"))
    assert served.requests == ["bytes=0-"]


def test_a_server_that_refuses_everything_with_416(web, fetch):
    web.add("x", b"x", statuses=[416, 416])
    with pytest.raises(ValueError, match="gives neither all of the file nor a part of known place$"):
        fetch(web.url("x"))


def test_parts_of_an_unknown_whole_are_not_used(web, fetch):
    served = web.add("x", some_bytes(UNIT), total=False, drop_after=UNIT // 2, drops=1)
    assert fetch(web.url("x")).read_bytes() == served.content


@pytest.mark.parametrize("total", [True, False])
def test_a_server_that_gives_less_than_was_asked_for_is_asked_again(web, fetch, total):
    served = web.add("x", some_bytes(2 * UNIT + 7), most=UNIT, total=total)
    assert fetch(web.url("x")).read_bytes() == served.content
    again = ["bytes=0-", f"bytes={UNIT}-", f"bytes={2 * UNIT}-"] if total else ["", ""]
    assert served.requests == ["bytes=0-", *again]


@pytest.mark.parametrize("length", ["\xb2", "-1", "9" * 5000, "1e3"])
def test_a_length_that_is_no_number_is_none(web, fetch, length):
    content = some_bytes(UNIT)
    web.add("x", content, ranges=False, length=False, chunked=False, headers={"Content-Length": length})
    assert fetch(web.url("x")).read_bytes() == content


def test_a_pause_that_is_no_number_is_none(web, fetch):
    web.add("x", b"x" * 9, statuses=[503], headers={"Retry-After": "\xb2"})
    assert fetch(web.url("x")).read_bytes() == b"x" * 9


def test_a_body_whose_end_cannot_be_told_from_a_break(web, fetch, tmp_path, recorder):
    served = web.add("x", some_bytes(UNIT), ranges=False, length=False, chunked=False)
    assert fetch(web.url("x")).read_bytes() == served.content
    note = f"WARNING: {web.url('x')} comes without its length: nothing shows whether all of it has come"
    assert recorder.notes.count(note) == 1
    served.drop_after, served.drops = UNIT // 2, 9
    with pytest.raises(ValueError, match="has 50,000 bytes, the catalogue says 100,000"):
        fetch(web.url("x"), "other.bin", size_bytes=UNIT)
    assert recorder.notes.count(note) == 1  # a known length is compared
    assert not (tmp_path / "other.bin").exists()
