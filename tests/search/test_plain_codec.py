"""Indexes of codecs without lists: the codes say all of a vector, the lists only where it is looked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit import Codec, Searcher
from qinco_lit.commands.search import search
from qinco_lit.search.index.bundle import load, save
from qinco_lit.search.plain_scan import PlainScan
from tests.search.index_jobs import ROWS, VAL, Build, contents, data_of, encode_file
from tests.search.indexes import DIM, LISTS, indexed, ivf_codec, nearest, stored_ids
from tests.search.test_searcher import brute_force


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("codebook_size", [16, 300])
def test_everything_shortlisted_is_exact_search_in_the_decoded_database(metric: str, codebook_size: int) -> None:
    given = indexed(metric=metric, codebook_size=codebook_size, pairwise=False, plain=True)
    expected, ids = brute_force(given, 7)
    distances, found = Searcher(given.bundle).search(given.queries, 7, nprobe=LISTS, num_additive=400)
    np.testing.assert_allclose(distances, expected, rtol=2e-5, atol=1e-4)
    assert (found == ids).mean() > 0.99


@pytest.mark.parametrize("mmap", [False, True])
def test_every_stage_ranks_by_its_own_decoder(tmp_path: Path, mmap: bool) -> None:
    given = indexed(plain=True)
    additive = given.bundle.additive.decode(given.codes)
    assert given.bundle.pairwise is not None
    pairwise = given.bundle.pairwise.decode(given.list_ids, given.codes)
    save(given.bundle, tmp_path / "index")
    searcher = Searcher.load(tmp_path / "index", mmap=mmap)
    trace = searcher.trace(given.queries, 5, nprobe=LISTS, num_additive=400, num_pairwise=400)
    row_of = {int(number): row for row, number in enumerate(given.ids)}
    # squared norms have 16 bits in memory and 8 on the disk
    tolerance = {"additive": 10.0 if mmap else 0.05, "pairwise": 1e-3, "decode": 1e-3}
    for name, x_hat in {"additive": additive, "pairwise": pairwise, "decode": given.x_hat}.items():
        rows = np.vectorize(row_of.__getitem__)(trace.stages[name].ids[:, :5])
        found = ((given.queries[:, None] - x_hat[rows]) ** 2).sum(-1)
        best = brute_force(given, 5, x_hat)[0]
        assert np.abs(np.sort(found, axis=1) - best).max() <= tolerance[name], name


def test_only_the_nearest_lists_are_visited() -> None:
    given = indexed(plain=True)
    distances, ids = Searcher(given.bundle).search(given.queries, 400, nprobe=3, num_additive=400)
    order = np.argsort(((given.queries[:, None] - given.centroids) ** 2).sum(-1), axis=1)[:, :3]
    for query, visited in enumerate(order):
        assert set(ids[query][ids[query] >= 0]) == set(given.ids[np.isin(given.list_ids, visited)])
    assert np.isinf(distances[ids < 0]).all()


def test_vectors_are_added_to_the_lists_of_their_nearest_centroids_and_removed(tmp_path: Path) -> None:
    given = indexed(plain=True)
    part = indexed(plain=True)
    searcher = Searcher(part.bundle)
    searcher.remove(given.ids[100:])
    searcher.add(given.x[100:], given.ids[100:])
    expected = Searcher(given.bundle).search(given.queries, 9, nprobe=4, num_additive=400)
    searcher.save(tmp_path / "index")
    for ours in (searcher, Searcher.load(tmp_path / "index"), Searcher.load(tmp_path / "index", mmap=True)):
        distances, ids = ours.search(given.queries, 9, nprobe=4, num_additive=400)
        np.testing.assert_array_equal(ids, expected[1])
        np.testing.assert_array_equal(distances, expected[0])
    index = load(tmp_path / "index").index
    assert not index.by_residual
    list_ids, codes, ids = map(np.concatenate, zip(*PlainScan(index).contents(), strict=True))
    rows = np.argsort(given.ids)[np.searchsorted(np.sort(given.ids), ids)]
    np.testing.assert_array_equal(list_ids, nearest(given.centroids, given.x)[rows])
    np.testing.assert_array_equal(codes, given.codes[rows])


# -- `qinco index` ----------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(inputs: Path, tmp_path: Path) -> dict[str, Any]:
    """A plain codec and its codes of base.npy, as options of `build`."""
    ivf_codec(num_lists=None).save(tmp_path / "plain")
    encode_file(tmp_path / "plain", inputs / "base.npy", tmp_path / "plain.h5", precision="float32")
    return {"codec_dir": tmp_path / "plain", "codes": tmp_path / "plain.h5"}


def test_lists_are_those_of_the_nearest_centroids(build: Build, inputs: Path, tmp_path: Path, plain: Any) -> None:
    report = build(**plain, num_lists=10)
    assert report is not None
    assert report["num_lists"] == 10
    base = np.load(inputs / "base.npy")
    codec = Codec.load(tmp_path / "plain")
    bundle = load(tmp_path / "index", verify=True)
    centroids = bundle.index.quantizer.reconstruct_n(0, 10)
    np.testing.assert_array_equal(
        np.argsort(stored_ids(bundle.index)), np.argsort(nearest(centroids, base), kind="stable").argsort()
    )
    list_ids, codes = bundle.encode(base)
    np.testing.assert_array_equal(list_ids, nearest(centroids, base))
    np.testing.assert_array_equal(codes, codec.encode(base))
    val = np.load(inputs / "train.npy")[-VAL:]
    decoded = codec.decode(codec.encode(val))
    np.testing.assert_allclose(report["validation_mse"]["full"], ((val - decoded) ** 2).sum(1).mean(), rtol=1e-4)
    x_hat = codec.decode(codec.encode(base))
    best = np.sort(((base[:50, None] - x_hat[None]) ** 2).sum(-1), axis=1)[:, :3]
    distances, _ = Searcher(bundle).search(base[:50], 3, nprobe=10, num_additive=ROWS)
    np.testing.assert_allclose(distances, best, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("on_disk", [False, True])
def test_parts_and_kills_do_not_matter(
    build: Build, tmp_path: Path, plain: Any, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qinco_lit.search.build.plain_lists._PIECE_ROWS", 256)
    build("one", **plain, num_lists=10, on_disk=on_disk)
    with monkeypatch.context() as patch:
        patch.setattr("qinco_lit.search.build.job.fit_decoders", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build("three", **plain, num_lists=10, on_disk=on_disk, parts=3)
    pieces = sorted((tmp_path / "three.work" / "lists").iterdir())
    assert len(pieces) == 3
    pieces[1].unlink()
    for part in (2, 0):
        assert build("three", **plain, num_lists=10, on_disk=on_disk, parts=3, part=part) is None
    build("three", **plain, num_lists=10, on_disk=on_disk, parts=3)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert not (tmp_path / "three.work").exists()
    with pytest.raises(ValueError, match=r"one is an index of other work: lists differ; name another one$"):
        build("one", **plain, num_lists=9, on_disk=on_disk)


def test_centroids_that_are_there(build: Build, inputs: Path, tmp_path: Path, plain: Any) -> None:
    np.save(tmp_path / "centroids.npy", np.load(inputs / "train.npy")[:7])
    report = build(**plain, centroids=tmp_path / "centroids.npy", training_codes=None)
    assert report is not None
    assert report["num_lists"] == 7
    bundle = load(tmp_path / "index")
    np.testing.assert_array_equal(bundle.index.quantizer.reconstruct_n(0, 7), np.load(tmp_path / "centroids.npy"))
    encode_file(tmp_path / "plain", inputs / "train.npy", tmp_path / "train.h5", precision="float32")
    given = build("given", **plain, centroids=tmp_path / "centroids.npy", training_codes=tmp_path / "train.h5")
    assert given is not None
    assert contents(tmp_path / "given") == contents(tmp_path / "index")


def test_lists_that_cannot_be_are_one_line(build: Build, inputs: Path, tmp_path: Path, plain: Any) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((3, DIM + 1), np.float32))
    np.save(tmp_path / "few.npy", np.load(inputs / "train.npy")[:4])
    np.save(tmp_path / "reversed.npy", np.load(inputs / "base.npy")[::-1])
    for options, message in (
        ({**plain, "num_lists": 3, "centroids": tmp_path / "few.npy"}, r"give num_lists or centroids, not both: .*"),
        ({**plain, "num_lists": 0}, r"num_lists=0: give at least 1"),
        ({**plain, "num_lists": 901}, r"num_lists=901: there are 900 training vectors, fewer than lists"),
        ({**plain, "centroids": tmp_path / "wide.npy"}, rf"centroids have dimension {DIM + 1}, the vectors {DIM}"),
        ({"num_lists": 3}, rf"{inputs}/codec has {LISTS} lists of its own: leave num_lists and centroids out"),
        (
            {**plain, "data": {"database": tmp_path / "reversed.npy"}},
            r".*plain.h5 holds codes of other vectors than the database of data set files: row k of one must be .*",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            build(**options)
        assert not list(tmp_path.glob("index*"))
    assert data_of(inputs) is not None


def test_it_is_measured_next_to_indexes_of_faiss(
    build: Build, inputs: Path, tmp_path: Path, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qinco_lit.commands.search.figure_bytes", lambda *_: b"")
    build(**plain, num_lists=10, pairwise=False)
    data = data_of(inputs, queries=inputs / "base.npy", cache_dir=str(tmp_path / "cache"))
    record = search(
        index_dir=tmp_path / "index", data=data, output_dir=tmp_path / "out", nprobe=[10], ef_search=[64],
        num_additive=[ROWS], num_pairwise=[0], repeats=1, warmup=0, latency_queries=0, num_threads=1, recall_at=[1],
        num_queries=60, baselines=["ivf_pq"], cache_dir=tmp_path / "cache",
    )  # fmt: skip
    base, codec = np.load(inputs / "base.npy"), Codec.load(tmp_path / "plain")
    x_hat = codec.decode(codec.encode(base))
    nearest_rows = ((base[:60, None] - x_hat[None]) ** 2).sum(-1).argmin(1)
    (point,) = record["engines"]["qinco"]["points"]
    assert point["recall_at_1"] == pytest.approx((nearest_rows == np.arange(60)).mean(), abs=0.04)  # ties
    (baseline,) = record["engines"]["ivf_pq"]["points"]
    assert baseline["recall_at_1"] > 0.1
