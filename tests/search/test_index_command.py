"""`qinco index`: the same index however often it was stopped and into how many parts it was cut."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit.codec import Codec
from qinco_lit.search.build import job as command
from qinco_lit.search.index import bundle as bundles
from qinco_lit.search.index.bundle import load
from qinco_lit.search.searcher import Searcher
from qinco_lit.vectors import open_codes, open_vectors
from tests.search.index_jobs import ROWS, TRAIN, VAL, contents, encode_file
from tests.search.indexes import DIM, LISTS, stored_ids


def test_the_index_holds_the_store(build, inputs, tmp_path):
    report = build()
    assert {path.name for path in tmp_path.iterdir()} == {"index"}
    bundle, store = load(tmp_path / "index", verify=True), open_codes(inputs / "codes.h5")
    assert bundle.config["codec_sha256"] == store.info.codec_sha256
    assert bundle.config["encoder"] == {
        "beam_size": 2,
        "num_candidates": 4,
        "candidate_budget": None,
        "precision": "float32",
    }
    assert (
        np.argsort(stored_ids(bundle.index)).tolist()
        == np.argsort(np.argsort(store.list_ids(), kind="stable")).tolist()
    )
    list_ids, codes = bundle.encode(np.load(inputs / "base.npy"))
    np.testing.assert_array_equal(list_ids, store.list_ids())
    np.testing.assert_array_equal(codes, store[:])
    assert report is not None
    assert report["num_vectors"] == ROWS
    assert report["empty_lists"] == (np.bincount(store.list_ids(), minlength=LISTS) == 0).sum() >= 1
    assert report["longest_list"] == np.bincount(store.list_ids()).max()
    assert json.loads((tmp_path / "index" / "report.json").read_text()) == json.loads(json.dumps(report))
    _, ids = Searcher(bundle).search(np.load(inputs / "base.npy")[:50], 1, nprobe=LISTS, num_additive=ROWS)
    assert (ids[:, 0] == np.arange(50)).mean() > 0.5


def test_decoders_are_those_of_the_training_codes(build, inputs, tmp_path):
    report = build(num_training=450)
    bundle = load(tmp_path / "index")
    codec = Codec.load(inputs / "codec", precision="float32")
    train = np.load(inputs / "train.npy")
    x = train[:TRAIN][np.arange(450) * TRAIN // 450]
    list_ids, codes = codec.encode(x, beam_size=2)
    targets = x - codec.coarse_centroids[list_ids]
    size = codec.codebook_size
    one_hot = np.zeros((450, codec.num_steps * size))
    one_hot[np.arange(450)[:, None], codes + size * np.arange(codec.num_steps)] = 1
    best = one_hot @ np.linalg.lstsq(one_hot, targets, rcond=None)[0]
    error, least = (((targets - each) ** 2).sum(1).mean() for each in (bundle.additive.decode(codes), best))
    assert 0.9999 * least <= error <= 1.001 * least
    val = train[TRAIN:]
    list_ids, codes = codec.encode(val, beam_size=2)
    start = codec.coarse_centroids[list_ids]
    decoded = {
        "additive": start + bundle.additive.decode(codes),
        "pairwise": start + bundle.pairwise.decode(list_ids, codes),
        "full": codec.decode(codes, list_ids=list_ids),
    }
    for name, x_hat in decoded.items():
        np.testing.assert_allclose(report["validation_mse"][name], ((val - x_hat) ** 2).sum(1).mean(), rtol=1e-4)
    assert (report["num_training"], report["num_validation"]) == (450, VAL)
    assert report["validation_mse"]["pairwise"] <= report["validation_mse"]["additive"]


@pytest.mark.parametrize("on_disk", [False, True])
def test_parts_do_not_matter(build, tmp_path, on_disk, capfd):
    build("one", on_disk=on_disk)
    capfd.readouterr()
    build("three", on_disk=on_disk, parts=3)
    out = capfd.readouterr().out
    assert "resizing" not in out  # faiss' C++ code prints such lines
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert ("lists.ivfdata" in contents(tmp_path / "three")) == on_disk
    bundle = load(tmp_path / "three")
    assert bundle.is_mapped == on_disk
    np.testing.assert_array_equal(np.sort(stored_ids(bundle.index)), np.arange(ROWS))


def test_parts_made_apart(build, tmp_path):
    build("one")
    for part in (2, 0):
        assert build("apart", parts=3, part=part) is None
        assert not (tmp_path / "apart").exists()
    records = sorted(path.name for path in (tmp_path / "apart.work" / "parts").glob("*.json"))
    assert records == ["part-00000-of-00003.json", "part-00002-of-00003.json"]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "apart.work" / "parts").iterdir()}
    assert build("apart", parts=3, part=0) is None
    assert {path: path.stat().st_mtime_ns for path in times} == times
    build("apart", parts=3)
    assert contents(tmp_path / "apart") == contents(tmp_path / "one")
    assert not (tmp_path / "apart.work").exists()


def test_a_damaged_part_is_made_again(build, tmp_path):
    build("one")
    build("again", parts=2, part=0)
    part = tmp_path / "again.work" / "parts" / "part-00000-of-00002.lists"
    part.write_bytes(part.read_bytes()[:-1])
    build("again", parts=2)
    assert contents(tmp_path / "again") == contents(tmp_path / "one")


def test_parts_of_other_decoders_are_made_again(build, tmp_path):
    build("one")
    build("again", parts=2, part=0)
    build("other", parts=2, part=1)
    other = tmp_path / "other.work" / "parts"
    for path in other.iterdir():
        path.rename(tmp_path / "again.work" / "parts" / path.name)
    before = (tmp_path / "again.work" / "parts" / "part-00001-of-00002.json").read_text()
    build("again", parts=2, part=1)
    assert (tmp_path / "again.work" / "parts" / "part-00001-of-00002.json").read_text() != before
    build("again", parts=2)
    assert contents(tmp_path / "again") == contents(tmp_path / "one")


def test_the_users_own_ids(build, inputs, tmp_path):
    ids = np.random.default_rng(0).permutation(10**12 + np.arange(ROWS) * 3)
    np.save(tmp_path / "ids.npy", ids)
    np.save(tmp_path / "column.npy", ids[:, None])
    build("plain")
    build("own", ids=str(tmp_path / "ids.npy"), parts=2)
    build("column", ids=str(tmp_path / "column.npy"))
    positions, own = (stored_ids(load(tmp_path / name).index) for name in ("plain", "own"))
    np.testing.assert_array_equal(own, ids[positions])
    assert contents(tmp_path / "column") == contents(tmp_path / "own")
    np.save(tmp_path / "unsigned.npy", ids.astype(np.uint64))
    build("unsigned", ids=str(tmp_path / "unsigned.npy"))
    np.testing.assert_array_equal(stored_ids(load(tmp_path / "unsigned").index), own)


def _ids(change: Callable[[np.ndarray], Any]) -> np.ndarray:
    ids = np.arange(ROWS)
    result = change(ids)
    return ids if result is None else result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids[:-1], "has 699 ids, there are 700 vectors: give one for each"),
        (lambda ids: ids.__setitem__(5, 3), ": id 3 is there twice: every vector needs its own"),
        (lambda ids: ids.__setitem__(5, -3), r": id -3 \(row 5\) is out of range: ids go from 0 to 2\^63 - 1"),
        (lambda ids: ids.astype(np.uint64) + np.uint64(2**63), rf": id {2**63} \(row 0\) is out of range: ids .*"),
        (lambda ids: ids.astype(np.float32), " holds float32: give integers"),
        (lambda ids: np.stack([ids, ids], 1), " has 2 columns: give one id per vector"),
    ],
)
def test_ids_that_cannot_be(build, tmp_path, change, message):
    np.save(tmp_path / "ids.npy", _ids(change))
    with pytest.raises(ValueError, match=rf"^ids=.*ids.npy ?{message}$"):
        build(ids=str(tmp_path / "ids.npy"))
    assert {path.name for path in tmp_path.iterdir()} == {"ids.npy"}


def test_training_codes_that_are_there_already(build, inputs, tmp_path):
    build("one", num_training=300, data={"limit_train": 300})
    np.save(tmp_path / "first.npy", np.load(inputs / "train.npy")[:300])
    encode_file(inputs / "codec", tmp_path / "first.npy", tmp_path / "first.h5", beam_size=2, precision="float32")
    build("two", training_codes=tmp_path / "first.h5")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    with pytest.raises(ValueError, match=r"codes.h5 holds codes of other vectors: row k must be row k of the training"):
        build("three", training_codes=inputs / "codes.h5")
    with pytest.raises(ValueError, match=r"codes.h5 has 700 rows, data set files has 500 training vectors"):
        build("three", training_codes=inputs / "codes.h5", data={"limit_train": 500})
    assert not (tmp_path / "three.work").exists()


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_the_metric_of_the_data_is_that_of_the_index(build, inputs, tmp_path, metric):
    codes, base = inputs / "codes.h5", open_vectors(inputs / "base.npy")
    if metric == "cosine":
        codes = tmp_path / "unit.h5"
        encode_file(inputs / "codec", base.unit(), codes)
    build(codes=codes, data={"metric": metric}, pairwise=False)
    bundle = load(tmp_path / "index")
    assert bundle.metric == metric
    assert bundle.pairwise is None
    queries = np.load(inputs / "base.npy")[:5]
    scores, _ = bundle.index.search(queries, 5)
    assert (np.diff(scores, axis=1) <= 0).all()


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("at", ["fit_decoders", "_build_part", "merge_in_memory", "save", "remove_work"])
def test_a_job_that_stops_goes_on_where_it_was(build, tmp_path, monkeypatch, at):
    build("one", parts=2)
    calls: list[str] = []

    def stop(*_: Any, **__: Any) -> None:
        calls.append(at)
        raise _KilledError

    before = {}
    with monkeypatch.context() as patch:
        where = {"save": bundles, "remove_work": sys.modules["qinco_lit.search.build.work"]}.get(at, command)
        build_part = command._build_part
        if at == "_build_part":  # in the second part

            def second(*arguments: Any) -> None:
                stop() if arguments[3] == 1 else build_part(*arguments)

            patch.setattr(command, at, second)
        else:
            patch.setattr(where, at, stop)
        with pytest.raises(_KilledError):
            build("two", parts=2)
        assert calls
        assert (tmp_path / "two").exists() == (at == "remove_work")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "two.work").rglob("*.h5")}
        assert before
    build("two", parts=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_a_complete_index_is_left_alone(build, tmp_path, caplog):
    build()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "index").rglob("*.*")}
    with caplog.at_level("INFO"):
        assert build(parts=4) is None
    assert caplog.messages[-1].endswith("index is complete already: 700 vectors")
    with pytest.raises(
        ValueError, match=r"^output=.*index is an index of other work: num_training differ; name another"
    ):
        build(num_training=400)
    with pytest.raises(ValueError, match=r"is an index of other work: pairwise, on_disk differ; name another one"):
        build(pairwise=False, on_disk=True)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


def test_work_of_another_job_is_refused(build, tmp_path):
    build(parts=2, part=0)
    with pytest.raises(
        ValueError, match=r"index.work belongs to other work: num_training differ; name another output="
    ):
        build(parts=2, num_training=50)
    (tmp_path / "mine.work").mkdir()
    (tmp_path / "mine.work" / "notes").write_text("mine")
    with pytest.raises(ValueError, match=r"mine.work exists and is no work folder of an index: name another output="):
        build("mine")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match=r"^output=.*taken exists and is no index: name another one$"):
        build("taken")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_training": 0}, "num_training=0: give at least 1"),
        ({"parts": 0}, "parts=0: give at least 1"),
        ({"num_threads": 0}, "num_threads=0: give at least 1"),
        ({"num_tables": 0}, "num_tables=0: give at least 1"),
        ({"num_list_codes": -1}, "num_list_codes=-1: give at least 0"),
        ({"part": 2, "parts": 2}, "part=2: parts=2 are numbered 0 to 1"),
        ({"pairwise_dtype": "int8"}, "pairwise_dtype=int8: give float32 or float16"),
        ({"device": "gpu"}, "unknown device gpu; choose from: auto, cpu, cuda, cuda:N"),
        ({"name": "no/index"}, "output=.*no/index: the folder .*no does not exist; make it first"),
        ({"codes": Path("gone.h5")}, "gone.h5: no such file"),
        ({"ids": "gone.npy"}, "ids=gone.npy: no such file"),
        ({"training_codes": Path("gone.h5")}, "gone.h5: no such file"),
        ({"codec_dir": Path("gone")}, "no codec in gone: config.json is missing .*"),
    ],
)
def test_what_cannot_be(build, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{message}$"):
        build(**options)
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_do_not_belong_together(build, inputs, tmp_path):
    with pytest.raises(ValueError, match=r"codes.h5 holds codes of another codec: its weights have SHA-256"):
        build(codec_dir=inputs / "other")
    np.save(tmp_path / "wide.npy", np.zeros((200, DIM + 1), np.float32))
    wide = {name: str(tmp_path / "wide.npy") for name in ("train", "database")}
    with pytest.raises(ValueError, match=f"encodes vectors of dimension {DIM}, data set files has {DIM + 1}"):
        build(data=wide)
    x = np.load(inputs / "train.npy")
    x[TRAIN - 450 * 2 // 2, 3] = np.nan
    np.save(tmp_path / "nan.npy", x)
    message = r"nan.npy: training vector 450 holds NaN or infinity: repair or remove it"
    with pytest.raises(ValueError, match=message):
        build(data={"train": str(tmp_path / "nan.npy")}, num_training=450)
    assert not (tmp_path / "index").exists()


WITHOUT_ROOM_THEN_KILLED = """
import os, resource, signal, sys
sys.dont_write_bytecode = True  # a compiled module would be cut, too, and stay so
from qinco_lit.cli import main
from qinco_lit.search.build import job as index
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (22_000, most))  # EFBIG, as a full disk gives ENOSPC
assert main(sys.argv[1:]) == 2
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
index.merge_in_memory = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_out_of_room_or_killed_the_same_command_finishes(build, inputs, tmp_path, caplog):
    build("one")
    arguments = [
        "index", f"codec={inputs}/codec", f"codes={inputs}/codes.h5", "data=files", f"data.train={inputs}/train.npy",
        f"data.database={inputs}/base.npy", f"data.num_val={VAL}", "output=out", "device=cpu", "parts=2",
    ]  # fmt: skip
    command_line = [sys.executable, "-c", WITHOUT_ROOM_THEN_KILLED, *arguments]
    killed = subprocess.run(command_line, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    [error] = [line for line in killed.stderr.splitlines() if line.startswith("qinco: error:")]
    assert error.startswith("qinco: error: [Errno 27] out")
    assert "File too large" in error
    assert {path.name for path in tmp_path.iterdir()} == {"one", "out.work", ".out.lock"}
    with caplog.at_level("INFO"):
        build("out", parts=2)
    assert "part=1 is complete already" in caplog.messages
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "out"}
