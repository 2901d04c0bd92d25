"""Every kind of codec with lists becomes an index: product, rotated, low-rank, QINCo1; through the commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit import Codec, Searcher
from qinco_lit.commands.index import index
from qinco_lit.commands.search import search
from qinco_lit.search.index.bundle import load, save
from qinco_lit.search.plain_scan import PlainScan
from tests.decoding import decode_distinct
from tests.search.index_jobs import data_of, encode_file
from tests.search.indexes import DIM, LISTS, Indexed, indexed_by, ivf_codec

ROWS = 300
QINCO1 = {"outer_skip": False, "num_candidates": 0, "beam_size": 1, "embed_dim": None}
FAMILY: dict[str, dict[str, Any]] = {
    "qinco1": QINCO1,
    "qinco_lr": {**QINCO1, "concat_rank": 6},
    "qinco2_lr": {"concat_rank": 6},
    "pq_qinco": {**QINCO1, "num_parts": 2},
    "pq_qinco2": {"num_parts": 2},
    "opq_qinco2": {"num_parts": 2, "opq": True},
    "opq_unequal": {"num_parts": 3, "part_dims": [7, 5, 4], "part_steps": [2, 1, 1], "opq": True},
    "pq_parts_in_order": {"num_parts": 2, "order": "parts"},
    "pq_nine_bits": {"num_parts": 2, "codebook_size": 300, "num_steps": 6},
    "four_bits": {"num_steps": 12},
    "twelve_bits": {"num_steps": 12, "codebook_size": 4096},
}
PRODUCTS = [name for name, config in FAMILY.items() if "num_parts" in config]


@pytest.fixture(scope="module")
def codec_of() -> Callable[[str], Codec]:
    return lambda name: ivf_codec(**FAMILY[name])


@pytest.fixture(scope="module", params=FAMILY)
def given(request: pytest.FixtureRequest) -> Indexed:
    return indexed_by(ivf_codec(**FAMILY[request.param]), ROWS, pairwise="_bits" not in request.param)


def brute_force(queries: np.ndarray, x_hat: np.ndarray, k: int) -> np.ndarray:
    return np.sort(((queries[:, None].astype(np.float64) - x_hat[None]) ** 2).sum(-1), 1)[:, :k]


def rows_of(given: Indexed, ids: np.ndarray) -> np.ndarray:
    return np.argsort(given.ids)[np.searchsorted(np.sort(given.ids), ids)]


def test_every_stage_ranks_by_its_own_decoder(given: Indexed, tmp_path: Path) -> None:
    save(given.bundle, tmp_path / "index")
    start = given.bundle.codec.coarse_centroids[given.list_ids]
    decoded = {"additive": start + given.bundle.additive.decode(given.codes), "decode": given.x_hat}
    if given.bundle.pairwise is not None:
        decoded["pairwise"] = start + given.bundle.pairwise.decode(given.list_ids, given.codes)
    for mmap in (False, True):
        searcher = Searcher.load(tmp_path / "index", mmap=mmap)
        num_pairwise = ROWS if searcher.has_pairwise else 0
        trace = searcher.trace(given.queries, 5, nprobe=LISTS, num_additive=ROWS, num_pairwise=num_pairwise)
        for name, x_hat in decoded.items():
            found = x_hat[rows_of(given, trace.stages[name].ids[:, :5])]
            scores = ((given.queries[:, None] - found) ** 2).sum(-1)
            tolerance = 4.0 if mmap and name == "additive" else 0.3  # of norms in 256 levels, or in 65,536
            np.testing.assert_allclose(scores, brute_force(given.queries, x_hat, 5), rtol=1e-4, atol=tolerance)
        np.testing.assert_allclose(trace.distances, brute_force(given.queries, given.x_hat, 5), rtol=1e-4, atol=1e-3)


def test_vectors_come_back_as_they_were(given: Indexed, tmp_path: Path) -> None:
    save(given.bundle, tmp_path / "index")
    searcher = Searcher.load(tmp_path / "index")
    gone = given.ids[::3]
    assert searcher.remove(gone) == len(gone)
    searcher.add(given.x[::3], gone)
    searcher.save(tmp_path / "index")
    list_ids, codes, ids = map(np.concatenate, zip(*PlainScan(load(tmp_path / "index").index).contents(), strict=True))
    rows = rows_of(given, ids)
    np.testing.assert_array_equal(list_ids, given.list_ids[rows])
    np.testing.assert_array_equal(codes, given.codes[rows])


@pytest.mark.parametrize("name", FAMILY)
def test_through_the_commands(
    name: str, codec_of: Callable[[str], Codec], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qinco_lit.commands.search.figure_bytes", lambda *_: b"")
    codec = codec_of(name)
    codec.save(tmp_path / "codec")
    base = np.load(inputs / "base.npy")
    rng = np.random.default_rng(1)
    queries = np.float32(base[:50] + rng.normal(size=(50, DIM)))
    np.save(tmp_path / "queries.npy", queries)
    data = data_of(inputs, queries=tmp_path / "queries.npy")
    encode_file(tmp_path / "codec", inputs / "base.npy", tmp_path / "codes.h5", packed=True, precision="float32")
    made = {"codec_dir": tmp_path / "codec", "codes": tmp_path / "codes.h5", "data": data, "device": "cpu"}
    small = {"num_list_codes": 1} if codec.codebook_size < 256 else {}
    report = index(**made, output=tmp_path / "whole", **small)
    shorter = index(**made, output=tmp_path / "short", num_steps=codec.num_steps - 1, pairwise=False)
    assert report is not None
    assert shorter is not None
    list_ids, codes = codec.encode(base)
    for folder, steps in (("whole", codec.num_steps), ("short", codec.num_steps - 1)):
        decoded = codec.decode(codes[:, :steps], list_ids=list_ids)
        distances, ids = Searcher.load(tmp_path / folder).search(queries, 4, nprobe=LISTS, num_additive=len(base))
        np.testing.assert_allclose(distances, brute_force(queries, decoded, 4), rtol=1e-4, atol=1e-3)
        exact = ((queries[:, None] - decoded[ids]) ** 2).sum(-1)
        np.testing.assert_allclose(distances, exact, rtol=1e-4, atol=1e-3)
    record = search(
        index_dir=tmp_path / "whole", data=data, output_dir=tmp_path / "out", nprobe=[LISTS], ef_search=[64],
        num_additive=[len(base)], num_pairwise=[0], repeats=1, warmup=0, latency_queries=0, num_threads=1,
        recall_at=[1], baselines=["ivf_pq"], cache_dir=tmp_path / "cache", precision="float32",
    )  # fmt: skip
    (point,) = record["engines"]["qinco"]["points"]
    # of equal codes the first
    equal = decode_distinct(codec, codes, list_ids=list_ids)
    nearest = np.argmin(((queries[:, None].astype(np.float64) - equal[None]) ** 2).sum(-1), axis=1)
    assert point["recall_at_1"] == pytest.approx((nearest == data.ground_truth[:, 0]).mean(), abs=0.021)
    text = (tmp_path / "out" / "search.md").read_text()
    label = {"qinco1": "QINCo1", "qinco_lr": "QINCo1-LR", "qinco2_lr": "QINCo2-LR", "pq_qinco": "PQ-QINCo1"}
    kind = "OPQ-QINCo2" if "opq" in name else "PQ-QINCo2" if "pq" in name else "QINCo2"
    assert f"Pareto front of {label.get(name, kind)} (" in text


@pytest.mark.parametrize("name", PRODUCTS)
def test_first_codes_of_a_product_are_of_all_parts(name: str, codec_of: Callable[[str], Codec]) -> None:
    """Steps that a search may read: the parts that they do not reach stay at the centroid."""
    given = indexed_by(codec_of(name), ROWS)
    codec, searcher = given.bundle.codec, Searcher(given.bundle)
    for num_steps in range(1, codec.num_steps + 1):
        x_hat = codec.decode(given.codes[:, :num_steps], list_ids=given.list_ids)
        found = searcher.search(given.queries, 3, nprobe=LISTS, num_additive=ROWS, num_steps=num_steps)
        np.testing.assert_allclose(found[0], brute_force(given.queries, x_hat, 3), rtol=1e-4, atol=1e-3)
