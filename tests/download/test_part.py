"""A state that does not describe all of a part is of no use: the file is fetched anew, never filled with zeros."""

import json

import pytest

from tests.download.conftest import UNIT, some_bytes

SIZE = 3 * UNIT


def _leave(web, folder, served, **changes):
    facts = {"url": web.url("x"), "size_bytes": SIZE, "version": served.etag, "done": 1000, "complete": False}
    state = {"schema_version": 2, **facts, **changes}
    (folder / "file.bin.part.json").write_text(json.dumps({k: v for k, v in state.items() if v != "left out"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"done": "1000"},
        {"done": -5},
        {"done": 0.5},
        {"done": True},
        {"done": None},
        {"done": SIZE + 1},
        {"done": SIZE + 2},
        {"complete": True},
        {"complete": True, "done": SIZE, "size_bytes": None},
        {"complete": 1, "done": SIZE},
        {"complete": "left out"},
        {"done": "left out"},
        {"url": "left out"},
        {"url": "http://elsewhere/x"},
        {"size_bytes": SIZE - 1},
        {"size_bytes": "left out"},
        {"size_bytes": str(SIZE)},
        {"version": "of before"},
        {"version": []},
        {"schema_version": 1},
        {"schema_version": 1, "segments": [[0, SIZE, SIZE]]},  # of versions that fetched several segments at once
    ],
)
def test_a_broken_state_is_discarded(web, fetch, tmp_path, changes):
    served = web.add("x", some_bytes(SIZE))
    (tmp_path / "file.bin.part").write_bytes(bytes(SIZE + 1))
    _leave(web, tmp_path, served, **changes)
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.requests[1:] == ["bytes=0-"]
    assert {path.name for path in tmp_path.iterdir()} == {"file.bin", "DOWNLOADS.json"}


@pytest.mark.parametrize("done", [0, 1000, SIZE])
def test_a_right_state_is_used(web, fetch, tmp_path, done):
    served = web.add("x", some_bytes(SIZE))
    (tmp_path / "file.bin.part").write_bytes(served.content[:done] + bytes(SIZE - done))
    _leave(web, tmp_path, served, done=done)
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.requests[1:] == ([f"bytes={done}-"] if done < SIZE else [])


def test_a_complete_part_needs_no_server(web, fetch, tmp_path):
    served = web.add("x", some_bytes(SIZE))
    (tmp_path / "file.bin.part").write_bytes(served.content)
    _leave(web, tmp_path, served, done=SIZE, complete=True)
    assert fetch(web.url("x")).read_bytes() == served.content
    assert served.requests == []
