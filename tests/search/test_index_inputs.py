"""Codes that `qinco index` takes: of rows as `data.metric` reads them, and of the training file's first rows."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from qinco_lit.search.build.fit import more_vectors
from qinco_lit.search.index.bundle import load
from qinco_lit.vectors import open_codes, open_vectors
from qinco_lit.vectors.rows import unit_rows
from tests.search.index_jobs import ROWS, TRAIN, VAL, contents, data_of, encode_file

SEARCH = {"beam_size": 2, "precision": "float32"}
RAW = "are of vectors as they are stored"
UNIT = "are of vectors of unit length"


@pytest.fixture(scope="module")
def unit_codes(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Codes of the database at unit length."""
    path = tmp_path_factory.mktemp("unit") / "unit.h5"
    encode_file(inputs / "codec", open_vectors(inputs / "base.npy").unit(), path, **SEARCH)
    return path


def _forget(store: Path) -> None:
    """Make a store one of before it said how its input was read."""
    with h5py.File(store, "r+") as content:
        del content.attrs["input_unit"]
    assert open_codes(store).info.input_unit is None


def _refusal(option: str, path: Path, theirs: str, metric: str) -> str:
    other = UNIT if theirs == RAW else RAW
    words = other.removeprefix("are of ")
    fix = f"encode them with `qinco encode data=CHOICE data.metric={metric}`"
    if option == "training_codes":
        command = f"qinco encode data=files data.train=.*train.npy data.database=.*train.npy data.metric={metric}"
        fix = f"leave training_codes out, or give codes of `{command}`"
    return f"^{option}={path} {theirs}, with data.metric={metric} data set files has {words}: {fix}$"


@pytest.mark.parametrize("old", [False, True])
def test_codes_of_rows_as_the_metric_reads_them(build, inputs, unit_codes, tmp_path, old):
    raw, unit = tmp_path / "raw.h5", tmp_path / "unit.h5"
    encode_file(inputs / "codec", inputs / "base.npy", raw, **SEARCH)
    encode_file(inputs / "codec", open_vectors(inputs / "base.npy").unit(), unit, **SEARCH)
    if old:
        _forget(raw)
        _forget(unit)
    with pytest.raises(ValueError, match=_refusal("codes", raw, RAW, "cosine")):
        build(codes=raw, data={"metric": "cosine"})
    for metric in ("l2", "ip"):
        with pytest.raises(ValueError, match=_refusal("codes", unit, UNIT, metric)):
            build(codes=unit, data={"metric": metric})
    assert not (tmp_path / "index.work").exists()
    build(codes=unit, data={"metric": "cosine"}, pairwise=False)
    assert load(tmp_path / "index").config["inputs"]["metric"] == "cosine"


def test_the_store_says_how_its_input_was_read(build, inputs, tmp_path):
    assert open_codes(inputs / "codes.h5").info.input_unit is False
    copy = np.load(inputs / "base.npy")[::-1]  # other rows than the database: only what was recorded can tell
    np.save(tmp_path / "copy.npy", copy)
    np.save(tmp_path / "bytes.npy", np.uint8(128 + 10 * copy))
    for name in ("copy", "bytes"):
        encode_file(inputs / "codec", tmp_path / f"{name}.npy", tmp_path / f"{name}.h5", **SEARCH)
        with pytest.raises(ValueError, match=_refusal("codes", tmp_path / f"{name}.h5", RAW, "cosine")):
            build(codes=tmp_path / f"{name}.h5", data={"metric": "cosine"})
        _forget(tmp_path / f"{name}.h5")
    with pytest.raises(ValueError, match=RAW):  # rows of unit length are float32
        build(codes=tmp_path / "bytes.h5", data={"metric": "cosine"})
    build(codes=tmp_path / "copy.h5", data={"metric": "cosine"}, pairwise=False)  # an old store of other rows


def test_a_store_of_before_is_complete_for_encode(inputs, tmp_path, caplog):
    encode_file(inputs / "codec", inputs / "base.npy", tmp_path / "old.h5", **SEARCH)
    _forget(tmp_path / "old.h5")
    before = (tmp_path / "old.h5").read_bytes()
    with caplog.at_level("INFO"):
        encode_file(inputs / "codec", inputs / "base.npy", tmp_path / "old.h5", **SEARCH)
    assert caplog.messages[-1].endswith(f"old.h5 is complete already: {ROWS} rows")
    with pytest.raises(ValueError, match=r"old.h5 belongs to other work: input_sample_sha256 is .*; name another"):
        encode_file(inputs / "codec", open_vectors(inputs / "base.npy").unit(), tmp_path / "old.h5", **SEARCH)
    assert (tmp_path / "old.h5").read_bytes() == before


def test_the_metric_of_training_codes(build, inputs, unit_codes, tmp_path):
    encode_file(inputs / "codec", inputs / "train.npy", tmp_path / "raw.h5", **SEARCH)
    with pytest.raises(ValueError, match=_refusal("training_codes", tmp_path / "raw.h5", RAW, "cosine")):
        build(codes=unit_codes, training_codes=tmp_path / "raw.h5", data={"metric": "cosine"})


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_training_codes_of_the_whole_file(build, inputs, unit_codes, tmp_path, caplog, metric):
    train = open_vectors(inputs / "train.npy")
    encode_file(inputs / "codec", train.unit() if metric == "cosine" else train, tmp_path / "whole.h5", **SEARCH)
    codes = unit_codes if metric == "cosine" else inputs / "codes.h5"
    options = {"codes": codes, "pairwise": False}
    build("one", num_training=None, data={"metric": metric}, **options)
    with caplog.at_level("INFO"):
        build("two", training_codes=tmp_path / "whole.h5", data={"metric": metric}, **options)
    line = f"training_codes={tmp_path}/whole.h5: the first {TRAIN:,} of {TRAIN + VAL:,} rows, the training vectors"
    assert line in caplog.messages
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert load(tmp_path / "two").config["inputs"]["num_training"] == TRAIN
    build("three", training_codes=tmp_path / "whole.h5", data={"metric": metric, "limit_train": 300}, **options)
    build("four", num_training=None, data={"metric": metric, "limit_train": 300}, **options)
    assert contents(tmp_path / "three") == contents(tmp_path / "four")


def test_more_training_codes_of_other_rows(build, inputs, tmp_path):
    x = np.load(inputs / "train.npy")
    x[TRAIN:] = x[TRAIN:][::-1]
    np.save(tmp_path / "other.npy", x)
    for vectors, rows in ((tmp_path / "other.npy", TRAIN + VAL), (inputs / "base.npy", ROWS)):
        path = tmp_path / f"{vectors.stem}.h5"
        encode_file(inputs / "codec", vectors, path, **SEARCH)
        message = (
            rf"^training_codes={path} has {rows} rows, data set files has 600 training vectors: give the store of "
            rf"their file {inputs}/train.npy, or of its first rows$"
        )
        with pytest.raises(ValueError, match=message):
            build(training_codes=path, data={"limit_train": 600})
    assert not (tmp_path / "index.work").exists()


def test_no_more_training_vectors_are_recommended_than_there_are(build, inputs, tmp_path, caplog):
    few = "additive decoder: {} training vectors for 64 codewords leave its error on others {} above the least"
    np.save(tmp_path / "first.npy", np.load(inputs / "train.npy")[:300])
    encode_file(inputs / "codec", tmp_path / "first.npy", tmp_path / "first.h5", **SEARCH)
    for name, options, line in (
        ("some", {"num_training": 300}, few.format(300, "27%") + "; num_training=900 would leave 8%"),
        ("all", {}, few.format(900, "8%")),
        ("given", {"training_codes": tmp_path / "first.h5"}, few.format(300, "27%")),  # which num_training= leaves
    ):
        with caplog.at_level("INFO"):
            build(name, pairwise=False, **options)
        assert [message for message in caplog.messages if "above the least" in message] == [line]
        caplog.clear()
    assert more_vectors(900, 1000, 1000) == (
        "900 training vectors for 1,000 codewords leave its error on others far above the least"
    )
    assert more_vectors(300, 64, 10_000) == more_vectors(300, 64)


def test_unit_rows_of_the_fixture_are_other_rows(inputs):
    x = data_of(inputs, metric="cosine")
    x.setup()
    np.testing.assert_array_equal(x.database[:], unit_rows(np.load(inputs / "base.npy")))
    assert not np.allclose(np.linalg.norm(np.load(inputs / "base.npy"), axis=1), 1)
