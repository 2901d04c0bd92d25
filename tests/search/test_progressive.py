"""Shortlists decoded step by step find what shortlists decoded whole find, with less decoding; on any threads."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from qinco_lit import Searcher
from qinco_lit.devices import num_threads_in_use
from qinco_lit.quantizers import Quantizer
from qinco_lit.search.plain_scan import Candidates
from qinco_lit.search.progressive import ProgressiveDecoder
from qinco_lit.search.rerank import rerank
from tests.search.indexes import LISTS, Indexed, indexed, indexed_by, ivf_codec

SIZE = 7
FAMILIES: dict[str, dict[str, Any]] = {
    "qinco2": {"num_steps": 8},
    "plain": {"num_steps": 8, "num_lists": None},
    "opq": {"num_steps": 8, "num_parts": 2, "opq": True},
}


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads of torch and of faiss."""
    before = num_threads_in_use()
    torch.set_num_threads(2)
    faiss.omp_set_num_threads(2)
    yield
    torch.set_num_threads(before["torch"])
    faiss.omp_set_num_threads(before["faiss"])


@pytest.fixture
def small_networks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are dropped whatever that saves."""
    monkeypatch.setattr("qinco_lit.search.progressive._LEAST_MULTIPLICATIONS", 0)


def shortlists(given: Indexed) -> Candidates:
    """All vectors for every query, by their additive estimates, with a few empty places."""
    additive = given.bundle.additive.decode(given.codes)
    if given.bundle.codec.num_lists is not None:
        additive += given.centroids[given.list_ids]
    if given.bundle.metric == "l2":
        scores = np.square(given.queries[:, None] - additive[None]).sum(2)
    else:
        scores = given.queries @ additive.T
    shape = scores.shape
    ids = np.broadcast_to(given.ids, shape).copy()
    ids[:, ::50] = -1
    return Candidates(
        np.float32(scores), ids, np.broadcast_to(given.list_ids, shape).copy(),
        np.broadcast_to(given.codes, (len(scores), *given.codes.shape)).copy(),
    )  # fmt: skip


def decoders(given: Indexed) -> tuple[ProgressiveDecoder, Any]:
    codec, has_lists = given.bundle.codec, given.bundle.codec.num_lists is not None
    progressive = ProgressiveDecoder(
        codec, given.bundle.additive.codebooks, by_residual=has_lists, inner_product=given.bundle.metric != "l2",
        sample=lambda: (given.list_ids[:200], given.codes[:200]),
    )  # fmt: skip
    return progressive, lambda codes, list_ids: codec.decode(codes, list_ids=list_ids if has_lists else None)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_steps", [8, 5])
def test_what_is_found_is_what_decoding_all_finds_but_for_a_few(
    family: str, metric: str, num_steps: int, small_networks_too: None
) -> None:
    given = indexed_by(ivf_codec(**FAMILIES[family]), 400, metric=metric)
    progressive, decode = decoders(given)
    found = progressive.rerank(given.queries, shortlists(given), SIZE, num_steps=num_steps)
    ip = metric != "l2"
    whole = rerank(given.queries, shortlists(given), SIZE, decode, inner_product=ip, num_steps=num_steps)
    common = (found.ids[:, :, None] == whole.ids[:, None]).any(2)
    assert common[:, 0].mean() > 0.97
    assert common.mean() > 0.95
    same = found.ids == whole.ids
    np.testing.assert_allclose(found.scores[same], whole.scores[same], rtol=1e-4, atol=1e-4)


def test_fewer_and_fewer_vectors_are_decoded(small_networks_too: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given = indexed_by(ivf_codec(num_steps=8), 400)
    progressive, _ = decoders(given)
    progressive.rerank(given.queries[:1], shortlists(given).of(np.arange(1)), SIZE, num_steps=8)  # looks at the sample
    rows: list[int] = []
    advance = Quantizer.advance

    def counted(self: Quantizer, column: int, codes: torch.Tensor, *rest: Any) -> None:
        rows.append(len(codes))
        advance(self, column, codes, *rest)

    monkeypatch.setattr(Quantizer, "advance", counted)
    progressive.rerank(given.queries[:1], shortlists(given).of(np.arange(1)), SIZE, num_steps=8)
    assert len(rows) == 8
    assert rows == sorted(rows, reverse=True)
    assert SIZE <= rows[-1] < 100
    assert rows[0] < 392


def test_networks_too_small_for_it_decode_all() -> None:
    given = indexed_by(ivf_codec(num_steps=8), 400)
    progressive, decode = decoders(given)
    found = progressive.rerank(given.queries, shortlists(given), SIZE, num_steps=8)
    whole = rerank(given.queries, shortlists(given), SIZE, decode, inner_product=False)
    np.testing.assert_array_equal(found.ids, whole.ids)


def test_queries_that_overflow_keep_their_vectors(small_networks_too: None) -> None:
    given = indexed_by(ivf_codec(num_steps=8), 400)
    progressive, _ = decoders(given)
    far = np.float32(3e38) * np.sign(given.queries)
    with np.errstate(over="ignore"):
        found = progressive.rerank(far, shortlists(given), SIZE, num_steps=8)
    assert (found.ids >= 0).all()


@pytest.mark.parametrize("number", [1, 40])
def test_results_have_the_same_bits_on_any_number_of_threads(
    number: int, two_threads: None, small_networks_too: None
) -> None:
    given = indexed(2000)
    queries = np.concatenate([given.queries] * 4)[: 3 * number]
    parameters = {"nprobe": LISTS, "num_additive": 700, "num_pairwise": 600}
    expected = Searcher(given.bundle, num_threads=1).search(queries, SIZE, **parameters)
    for threads in (None, 2, 3):
        found = Searcher(indexed(2000).bundle, num_threads=threads).search(queries, SIZE, **parameters)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_searches_at_the_same_time_find_their_own_and_change_no_setting(two_threads: None) -> None:
    given = indexed(1000)
    searchers = [Searcher(given.bundle, num_threads=1), Searcher(indexed(1000).bundle, num_threads=3)]
    parameters = {"nprobe": LISTS, "num_additive": 300}
    expected = [searcher.search(given.queries, SIZE, **parameters) for searcher in searchers]
    seen, over = [], threading.Event()

    def look() -> None:
        while not over.is_set():  # a thread that begins asks for what the process has
            asked = threading.Thread(target=lambda: seen.append(tuple(num_threads_in_use().values())))
            asked.start()
            asked.join()

    looking = threading.Thread(target=look)
    looking.start()
    with ThreadPoolExecutor(4) as callers:
        turns = [callers.submit(searchers[turn % 2].search, given.queries, SIZE, **parameters) for turn in range(40)]
        found = [turn.result() for turn in turns]
    over.set()
    looking.join()
    for turn, (distances, ids) in enumerate(found):
        np.testing.assert_array_equal(distances, expected[turn % 2][0])
        np.testing.assert_array_equal(ids, expected[turn % 2][1])
    assert num_threads_in_use() == {"torch": 2, "faiss": 2}
    assert {torch_threads for torch_threads, _ in seen} == {2}


def test_a_search_sets_no_number_of_threads(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given = indexed()
    searcher = Searcher(given.bundle, num_threads=3)
    expected = searcher.search(given.queries, 5)  # the threads it works on begin here

    def never(number: int) -> None:
        raise AssertionError(f"torch.set_num_threads({number})")

    monkeypatch.setattr(torch, "set_num_threads", never)
    np.testing.assert_array_equal(searcher.search(given.queries, 5)[1], expected[1])
    monkeypatch.undo()
