"""The config of an index directory: edited, or of another kind, it is refused in one line."""

import json
from pathlib import Path

import pytest

from qinco_lit.search.index.bundle import load, save
from tests.search.indexes import Indexed, indexed


@pytest.fixture(scope="module")
def given() -> Indexed:
    return indexed(60)


def _edit(folder: Path, *, keep_checksum: bool, **changes: object) -> None:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    if not keep_checksum:  # as an index of before there was one
        config.pop("config_sha256", None)
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("keep_checksum", [True, False])
@pytest.mark.parametrize(
    ("built", "edited"), [("l2", "ip"), ("l2", "cosine"), ("ip", "l2"), ("cosine", "l2"), ("ip", "cosine")]
)
def test_an_index_of_one_metric_is_not_read_as_that_of_another(tmp_path, built, edited, keep_checksum):
    save(indexed(60, metric=built).bundle, tmp_path / "index")
    _edit(tmp_path / "index", keep_checksum=keep_checksum, metric=edited)
    if keep_checksum:
        message = r"index/config.json is no index this version reads: it was edited, config_sha256 is another"
    elif "l2" in (built, edited):
        there, expected = (metric if metric == "l2" else "ip" for metric in (built, edited))
        message = rf"index/index.faiss does not fit the other parts: metric {there}, expected {expected}"
    else:  # nothing in the parts tells ip from cosine
        assert load(tmp_path / "index").metric == edited
        return
    with pytest.raises(ValueError, match=f"{message}$"):
        load(tmp_path / "index")


def test_the_checksum_of_a_config_is_that_of_its_values(given, tmp_path):
    save(given.bundle, tmp_path / "index")
    file = tmp_path / "index" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(config.items())), separators=(",", ":")))
    bundle = load(tmp_path / "index")
    save(bundle, tmp_path / "index")
    assert json.loads(file.read_text())["config_sha256"] == config["config_sha256"]
    _edit(tmp_path / "index", keep_checksum=False)
    assert load(tmp_path / "index").metric == "l2"
    save(load(tmp_path / "index"), tmp_path / "index")
    assert json.loads(file.read_text()) == config


GOOD_PART = {"bytes": 1, "sha256": "0"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ["index.faiss"]}, "parts is no table of files"),
        ({"parts": None}, "parts is no table of files"),
        ({"parts": {"index.faiss": GOOD_PART}}, "parts lacks additive.safetensors, codec/config.json, .*report.json"),
        ({"encoder": None}, "encoder is no table of values"),
        ({"encoder": [4]}, "encoder is no table of values"),
    ],
)
def test_a_config_whose_entries_are_of_another_kind(given, tmp_path, changes, message):
    save(given.bundle, tmp_path / "index")
    _edit(tmp_path / "index", keep_checksum=False, **changes)
    with pytest.raises(ValueError, match=rf"config.json is no index this version reads: {message}$"):
        load(tmp_path / "index")


@pytest.mark.parametrize("record", [None, 7, {}, {"bytes": 1}, {"sha256": "0"}, "file"])
def test_a_part_without_size_or_checksum(given, tmp_path, record):
    save(given.bundle, tmp_path / "index")
    parts = json.loads((tmp_path / "index" / "config.json").read_text())["parts"]
    _edit(tmp_path / "index", keep_checksum=False, parts={**parts, "report.json": record})
    with pytest.raises(ValueError, match=r"this version reads: part report.json has no bytes and sha256$"):
        load(tmp_path / "index")


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null"])
def test_a_config_that_is_no_table(given, tmp_path, content):
    save(given.bundle, tmp_path / "index")
    (tmp_path / "index" / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json is no index this version reads: it is no table of values$"):
        load(tmp_path / "index")
