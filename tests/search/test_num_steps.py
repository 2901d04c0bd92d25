"""One index for every rate: `index num_steps=`, `Searcher.search(num_steps=)`, `search num_steps=[...]`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit import Codec, Searcher
from qinco_lit.commands import search as command
from qinco_lit.commands.truncate import truncate_codec
from qinco_lit.encoding.truncate import truncate_codes
from qinco_lit.search.index.bundle import load
from qinco_lit.search.plain_scan import PlainScan
from qinco_lit.search.points.engines import SearcherEngine
from qinco_lit.vectors import open_codes, open_vectors
from tests.search.index_jobs import ROWS, TRAIN, Build, contents, data_of, encode_file
from tests.search.indexes import LISTS, Indexed, indexed

ALL = {"nprobe": LISTS, "num_additive": ROWS}


def stored(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Lists and codes by id, which are positions."""
    list_ids, codes, ids = map(np.concatenate, zip(*PlainScan(load(folder).index).contents(), strict=True))
    order = np.argsort(ids)
    return list_ids[order], codes[order]


def nearest(queries: np.ndarray, x_hat: np.ndarray, k: int) -> np.ndarray:
    return np.sort(((queries[:, None].astype(np.float64) - x_hat[None]) ** 2).sum(-1), 1)[:, :k]


# -- building ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [1, 3])
def test_an_index_of_the_first_codes(build: Build, inputs: Path, tmp_path: Path, num_steps: int) -> None:
    report = build(num_steps=num_steps)
    assert report is not None
    store, whole = open_codes(inputs / "codes.h5"), Codec.load(inputs / "codec", precision="float32")
    list_ids, codes = stored(tmp_path / "index")
    np.testing.assert_array_equal(list_ids, store.list_ids())
    np.testing.assert_array_equal(codes, store[:][:, :num_steps])
    bundle = load(tmp_path / "index", verify=True)
    assert bundle.codec.num_steps == bundle.config["num_steps"] == num_steps
    assert bundle.config["faiss"] == f"IVF{LISTS}_HNSW32,RQ{num_steps}x4_Nqint8"
    assert bundle.codec.truncated_from == {"weights_sha256": whole.weights_sha256, "num_steps": whole.num_steps}
    assert report["bytes"]["per_vector"]["codes"] == (1 if num_steps == 1 else 2)
    # what is searched is what the whole codec decodes of these codes
    queries = np.load(inputs / "base.npy")[:30]
    distances, _ = Searcher(bundle).search(queries, 5, **ALL)
    expected = nearest(queries, whole.decode(store[:][:, :num_steps], list_ids=store.list_ids()), 5)
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-3)


def test_its_decoders_are_fitted_to_first_codes_of_as_long_a_search(build: Build, inputs: Path, tmp_path: Path) -> None:
    report = build(num_steps=2, num_training=450)
    assert report is not None
    codec, train = Codec.load(inputs / "codec", precision="float32"), np.load(inputs / "train.npy")
    list_ids, codes = codec.encode(train[TRAIN:], beam_size=2)
    additive = load(tmp_path / "index").additive
    x_hat = codec.coarse_centroids[list_ids] + additive.decode(codes[:, :2])
    error = ((train[TRAIN:] - x_hat) ** 2).sum(1).mean()
    np.testing.assert_allclose(report["validation_mse"]["additive"], error, rtol=1e-4)
    shorter = codec.encode(train[TRAIN:], beam_size=2, num_steps=2)[1]
    assert (shorter != codes[:, :2]).any()  # of a search for two codes they would be others


def test_cut_before_or_in_the_index_is_the_same(build: Build, inputs: Path, tmp_path: Path) -> None:
    truncate_codes(inputs / "codes.h5", 3, tmp_path / "short.h5")
    truncate_codec(inputs / "codec", 3, tmp_path / "short")
    build("one", num_steps=3)
    build("two", codes=tmp_path / "short.h5")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    build("three", codes=tmp_path / "short.h5", codec_dir=tmp_path / "short")
    one, three = stored(tmp_path / "one"), stored(tmp_path / "three")
    for there, here in zip(three, one, strict=True):
        np.testing.assert_array_equal(there, here)


def test_the_cut_codec_says_that_it_cannot_search_as_long(
    build: Build, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truncate_codec(inputs / "codec", 2, tmp_path / "short")
    with pytest.raises(ValueError, match=r"codes.h5 has codes of 4 steps, the codec in .*short was cut to 2: give num"):
        build(codec_dir=tmp_path / "short")
    build(codec_dir=tmp_path / "short", num_steps=2)
    (line,) = [message for message in caplog.messages if "holds the first of" in message]
    assert line.endswith(
        "short has 2 steps: training vectors are encoded with these; codec=DIR of all steps and num_steps=2 would find "
        "their codes as the database's were found"
    )


def test_codes_of_a_search_for_fewer_steps(build: Build, inputs: Path, tmp_path: Path) -> None:
    search = {"beam_size": 2, "precision": "float32", "num_steps": 2}
    encode_file(inputs / "codec", inputs / "base.npy", tmp_path / "codes.h5", **search)
    build(codes=tmp_path / "codes.h5")
    x = np.load(inputs / "base.npy")
    codec = Codec.load(inputs / "codec", precision="float32")
    list_ids, codes = codec.encode(x, beam_size=2, num_steps=2)
    bundle = load(tmp_path / "index")
    for there in (stored(tmp_path / "index"), bundle.encode(x)):  # what is added later is encoded in the same way
        np.testing.assert_array_equal(there[0], list_ids)
        np.testing.assert_array_equal(there[1], codes)


def test_training_codes_may_be_longer_not_shorter(build: Build, inputs: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "first.npy", np.load(inputs / "train.npy")[:300])
    encode_file(inputs / "codec", tmp_path / "first.npy", tmp_path / "first.h5", beam_size=2, precision="float32")
    truncate_codes(tmp_path / "first.h5", 2, tmp_path / "two.h5")
    build("one", num_steps=2, training_codes=tmp_path / "first.h5")
    build("two", num_steps=2, num_training=300, data={"limit_train": 300})
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with pytest.raises(ValueError, match=r"^training_codes=.*two.h5 has codes of 2 steps, the index needs 3$"):
        build("three", num_steps=3, training_codes=tmp_path / "two.h5")


def test_another_number_of_steps_is_other_work(build: Build, tmp_path: Path) -> None:
    build(num_steps=2)
    with pytest.raises(ValueError, match=r"is an index of other work: num_steps differ; name another one$"):
        build(num_steps=3)
    for num_steps, message in ((0, "num_steps=0"), (5, "num_steps=5")):
        with pytest.raises(ValueError, match=rf"^{message}: .*codes.h5 has codes of 4 steps, give 1 to 4$"):
            build("other", num_steps=num_steps)
    assert not (tmp_path / "other.work").exists()


def test_training_vectors_of_another_search_are_other_work(
    build: Build, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truncate_codec(inputs / "codec", 2, tmp_path / "short")
    encode_file(inputs / "codec", inputs / "train.npy", tmp_path / "train.h5", beam_size=2, precision="float32")
    build("whole", num_steps=2)
    cut: dict[str, Any] = {"codec_dir": tmp_path / "short", "num_steps": 2}
    with pytest.raises(ValueError, match=r"whole is an index of other work: searched differ; name another one$"):
        build("whole", **cut)
    assert caplog.messages == []  # nothing was encoded
    build("cut", **cut)
    assert len(caplog.messages) == 1
    assert build("cut", **cut) is None
    assert len(caplog.messages) == 1
    # whose training vectors were searched as the database was is one of before "searched" was recorded
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["inputs"].pop("searched") is None
    del config["config_sha256"]  # as old
    (tmp_path / "whole" / "config.json").write_text(json.dumps(config))
    assert build("whole", num_steps=2) is None
    # training vectors that are not searched are the same with both codecs
    build("given", num_steps=2, training_codes=tmp_path / "train.h5")
    assert build("given", **cut, training_codes=tmp_path / "train.h5") is None
    assert len(caplog.messages) == 1


def test_training_codes_of_another_search_get_a_warning(
    build: Build, inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = {"beam_size": 2, "precision": "float32"}
    encode_file(inputs / "codec", inputs / "train.npy", tmp_path / "four.h5", **search)
    encode_file(inputs / "codec", inputs / "train.npy", tmp_path / "two.h5", **search, num_steps=2)
    truncate_codes(tmp_path / "four.h5", 2, tmp_path / "first.h5")
    for name in ("four", "first"):  # found as the database's
        build(name, num_steps=2, training_codes=tmp_path / f"{name}.h5")
    assert caplog.messages == []
    for _ in range(2):  # the second time it is complete
        build("two", num_steps=2, training_codes=tmp_path / "two.h5")
        assert caplog.messages == [
            f"training_codes={tmp_path}/two.h5 are of a search for 2 codes, those of {inputs}/codes.h5 of one for 4: "
            "without training_codes= the codes of training vectors would be found as the database's were"
        ]


# -- searching --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given() -> Indexed:
    return indexed()


@pytest.fixture(scope="module")
def searcher() -> Searcher:
    return Searcher(indexed().bundle)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, None])
@pytest.mark.parametrize("precision", ["float32", "screened"])
def test_distances_are_to_what_the_first_codes_decode_to(given: Indexed, num_steps: int | None, precision: str) -> None:
    x_hat = given.bundle.codec.decode(given.codes[:, :num_steps], list_ids=given.list_ids)
    one = Searcher(indexed().bundle, precision=precision)
    distances, ids = one.search(given.queries, 6, nprobe=LISTS, num_additive=400, num_steps=num_steps)
    np.testing.assert_allclose(distances, nearest(given.queries, x_hat, 6), rtol=1e-4, atol=1e-3)
    rows = np.argsort(given.ids)[np.searchsorted(np.sort(given.ids), ids)]
    exact = ((given.queries[:, None] - x_hat[rows]) ** 2).sum(-1)
    np.testing.assert_allclose(distances, exact, rtol=1e-4, atol=1e-3)


def test_the_stages_before_read_all_codes(searcher: Searcher, given: Indexed) -> None:
    short, whole = (
        searcher.trace(given.queries, 5, num_additive=100, num_pairwise=30, num_steps=steps) for steps in (1, None)
    )
    for stage in ("additive", "pairwise"):
        np.testing.assert_array_equal(short.stages[stage].ids, whole.stages[stage].ids)
    assert (short.ids != whole.ids).any()


def test_steps_that_there_are_not(searcher: Searcher, given: Indexed) -> None:
    for num_steps, message in (
        (0, "num_steps=0: give at least 1"),
        (5, "num_steps=5: the index has 4 codes per vector"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            searcher.search(given.queries, num_steps=num_steps)
    with pytest.raises(ValueError, match=r"^num_steps=5: the index has 4 codes per vector$"):
        SearcherEngine(searcher, num_steps=[2, 5])
    with pytest.raises(ValueError, match=r"^num_steps=0: give at least 1$"):
        SearcherEngine(searcher, num_steps=[0])


def test_points_of_a_search_have_their_number_of_steps(
    build: Build, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qinco_lit.commands.search.figure_bytes", lambda *_: b"")
    build(pairwise=False)
    queries = np.load(inputs / "base.npy")[:60] + np.float32(0.1)
    np.save(tmp_path / "queries.npy", queries)
    data = data_of(inputs, queries=tmp_path / "queries.npy")
    options: dict[str, Any] = {
        "index_dir": tmp_path / "index", "data": data, "output_dir": tmp_path / "out", "nprobe": [LISTS],
        "ef_search": [64], "num_additive": [64], "repeats": 1, "warmup": 0, "latency_queries": 0, "num_threads": 1,
        "recall_at": [1, 10],
    }  # fmt: skip
    record = command.search(num_steps=[4, 1], **options)
    engine = record["engines"]["qinco"]
    assert engine["parameters"]["num_steps"] == [1, 4]
    assert engine["num_candidates"] == 2
    recalls = {point["parameters"]["num_steps"]: point["recall_at_1"] for point in engine["points"]}
    searcher = Searcher.load(tmp_path / "index")
    truth = data.ground_truth[:, 0]
    for num_steps, recall in recalls.items():
        _, ids = searcher.search(queries, 64, nprobe=LISTS, num_additive=64, num_steps=num_steps)
        assert recall == pytest.approx((ids[:, 0] == truth).mean())
    assert recalls[1] < recalls[4]
    # points of a search that did not say are those of all codes
    again = command.search(**options)
    assert [point["parameters"].get("num_steps") for point in again["engines"]["qinco"]["points"]] == [4]
    lines = [json.loads(line) for line in (tmp_path / "out" / "points.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    command.search(num_steps=[4], **options | {"output_dir": tmp_path / "other"})
    assert open_vectors(inputs / "base.npy").shape[0] == ROWS
