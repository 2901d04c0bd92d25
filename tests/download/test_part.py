"""A state that does not describe all of the file is of no use: the file is fetched anew, never filled with zeros."""

import json

import pytest

from qinco_lit.downloads.transfer import _Transfer
from tests.download.conftest import SEGMENT, some_bytes

SIZE = 3 * SEGMENT


@pytest.mark.parametrize(
    "segments",
    [
        [],
        {},
        [["0", SIZE, SIZE]],
        [[0, str(SIZE), SIZE]],
        [[0, SIZE, -5]],
        [[0, SIZE, 0.5]],
        [[0.5, SIZE, 0]],
        [[0, SIZE, True]],
        [[0, SIZE, SIZE + 1]],
        [[0, 10, SIZE]],
        [[0, 10, 10]],
        [[10, SIZE, SIZE - 10]],
        [[0, SEGMENT, SEGMENT], [2 * SEGMENT, SIZE, SEGMENT]],
        [[SEGMENT, SIZE, SIZE - SEGMENT], [0, SEGMENT, SEGMENT]],
        [[0, 2 * SEGMENT, 2 * SEGMENT], [SEGMENT, SIZE, 2 * SEGMENT]],
        [[0, SIZE + 1, SIZE + 1]],
        [[0, None, 10]],
        [[0, None, 10], [10, SIZE, SIZE - 10]],
        [[0, SIZE]],
    ],
)
def test_a_broken_state_is_discarded(web, fetch, tmp_path, segments):
    served = web.add("x", some_bytes(SIZE))
    (tmp_path / "file.bin.part").write_bytes(bytes(SIZE + 1))
    facts = {"schema_version": 1, "url": web.url("x"), "size_bytes": SIZE, "version": served.etag}
    (tmp_path / "file.bin.part.json").write_text(json.dumps({**facts, "segments": segments}))
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.sent == SIZE + 1


def test_a_right_state_is_used(web, fetch, tmp_path):
    served = web.add("x", some_bytes(SIZE))
    (tmp_path / "file.bin.part").write_bytes(served.content[:1000] + bytes(SIZE - 1000))
    facts = {"schema_version": 1, "url": web.url("x"), "size_bytes": SIZE, "version": served.etag}
    (tmp_path / "file.bin.part.json").write_text(json.dumps({**facts, "segments": [[0, 5000, 1000], [5000, SIZE, 0]]}))
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.sent == SIZE + 1 - 1000


def test_a_part_with_an_unfinished_segment_gets_no_name(web, fetch, tmp_path, monkeypatch):
    web.add("x", some_bytes(SIZE))
    (tmp_path / "file.bin.part").write_bytes(bytes(SIZE))
    monkeypatch.setattr(_Transfer, "_work", lambda _: None)
    with pytest.raises(ValueError) as error:
        fetch(web.url("x"))
    assert str(error.value) == f"{tmp_path / 'file.bin.part'} is not complete: remove it"
    assert not (tmp_path / "file.bin").exists()
