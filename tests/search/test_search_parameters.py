"""Parameters and queries of a search: numbers beyond the index do what its size does, anything odd is one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

from qinco_lit import Searcher
from qinco_lit.search import scan
from qinco_lit.search.index.bundle import save
from tests.search.indexes import LISTS, Indexed, indexed

HUGE = 10**12


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As for a user, whose arguments are not compared with the annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def given() -> Indexed:
    return indexed(60)


@pytest.fixture(scope="module", params=["memory", "mapped"])
def searcher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("index") / "a"
    save(indexed(60).bundle, folder)
    return Searcher.load(folder, mmap=request.param == "mapped")


def test_numbers_beyond_the_index_are_those_of_the_index(searcher: Searcher, given: Indexed) -> None:
    expected = searcher.trace(given.queries, 7, nprobe=LISTS, ef_search=64, num_additive=60, num_pairwise=60)
    for options in (
        {"nprobe": HUGE, "ef_search": HUGE, "num_additive": HUGE, "num_pairwise": HUGE},
        {"nprobe": LISTS + 1, "ef_search": 65, "num_additive": 61, "num_pairwise": 61},
    ):
        trace = searcher.trace(given.queries, 7, **options)
        np.testing.assert_array_equal(trace.ids, expected.ids)
        np.testing.assert_array_equal(trace.distances, expected.distances)
        for name, stage in expected.stages.items():
            np.testing.assert_array_equal(trace.stages[name].ids, stage.ids)


def test_a_search_asks_faiss_for_no_more_than_there_is(given: Indexed, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    plain = scan.ivf_parameters

    def remember(nprobe: int, ef_search: int) -> Any:
        asked.append((nprobe, ef_search))
        return plain(nprobe, ef_search)

    monkeypatch.setattr(scan, "ivf_parameters", remember)
    ours = Searcher(indexed(60).bundle)
    for options in ({}, {"nprobe": HUGE}, {"nprobe": 3, "ef_search": HUGE}, {"ef_search": 5}):
        ours.search(given.queries[:1], **options)
    assert asked == [(8, 64), (LISTS, 64), (3, 64), (8, 5)]


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("options", [{}, {"num_pairwise": 3}, {"num_additive": 2, "num_pairwise": 100}])
def test_more_results_than_vectors_are_padded(metric: str, options: dict[str, int]) -> None:
    few = indexed(9, metric=metric)
    ours = Searcher(few.bundle)
    distances, ids = ours.search(few.queries, 25, nprobe=LISTS, **options)
    exact = ours.search(few.queries, 9, nprobe=LISTS)
    assert distances.shape == ids.shape == (40, 25)
    assert (distances.dtype, ids.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(ids[:, :9], exact[1])
    np.testing.assert_array_equal(distances[:, :9], exact[0])
    assert (np.sort(ids[:, :9]) == np.sort(few.ids)).all()
    assert (ids[:, 9:] == -1).all()
    assert (distances[:, 9:] == (np.inf if metric == "l2" else -np.inf)).all()
    trace = ours.trace(few.queries, 25, nprobe=LISTS, **options)
    np.testing.assert_array_equal(trace.stages["decode"].ids, trace.ids)


@pytest.mark.usefixtures("unchecked")
def test_whole_numbers_of_any_type(searcher: Searcher, given: Indexed) -> None:
    expected = searcher.search(given.queries, 4, nprobe=5, num_additive=20)
    found = searcher.search(given.queries, np.int8(4), nprobe=np.uint64(5), num_additive=torch.tensor(20))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["k", "nprobe", "ef_search", "num_additive", "num_pairwise"])
@pytest.mark.parametrize("value", [16.5, 16.0, "16", [16]])
def test_what_is_no_whole_number_is_refused(searcher: Searcher, given: Indexed, name: str, value: Any) -> None:
    with pytest.raises(ValueError) as raised:
        searcher.search(given.queries, **{name: value})
    assert str(raised.value) == f"{name}={value!r}: give a whole number"


@pytest.mark.usefixtures("unchecked")
def test_threads_are_a_number_from_1_on(tmp_path: Path) -> None:
    for value, wanted in (
        (0, "give at least 1"),
        (-2, "give at least 1"),
        (1.5, "(give a whole number|expected an integer or None)"),
    ):
        with pytest.raises(ValueError, match=f"^num_threads={value}: {wanted}$"):
            Searcher(indexed(9).bundle, num_threads=value)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"^num_threads={value}: {wanted}$"):  # before anything is read
            Searcher.load(tmp_path / "nowhere", num_threads=value)  # type: ignore[arg-type]


# -- queries ----------------------------------------------------------------------------------------------------------


def test_queries_of_torch(searcher: Searcher, given: Indexed) -> None:
    x = torch.from_numpy(np.rint(given.queries))
    expected = searcher.search(x.numpy(), 4)
    for queries in (x, x.clone().requires_grad_(), x.bfloat16(), x.half(), x.double(), x.T.contiguous().T, x.int()):
        found = searcher.search(queries, 4)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[0], expected[0])


def test_queries_that_are_no_real_numbers_are_refused(searcher: Searcher, given: Indexed) -> None:
    numbers = given.queries.astype(np.complex64)
    for bad, dtype in (
        (numbers, "complex64"),
        (torch.from_numpy(numbers), "torch.complex64"),
        (torch.from_numpy(numbers).conj(), "torch.complex64"),
        (given.queries.astype(str), "<U32"),
        (given.queries.astype(object), "object"),
    ):
        with pytest.raises(ValueError) as raised:
            searcher.search(bad)
        assert str(raised.value).startswith("queries of dtype "), raised.value
        assert str(raised.value).endswith(" are not supported: give float32 or uint8")
        assert dtype in str(raised.value) or dtype.startswith("<U")


def test_numbers_that_float32_cannot_hold_are_refused(searcher: Searcher, given: Indexed) -> None:
    queries = given.queries.astype(np.float64)
    queries[5, 1] = 1e300
    with pytest.raises(ValueError, match=r"^query 5 holds NaN or infinity$"):
        searcher.search(queries)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("size", [1e19, 1e30, 3e38])
def test_huge_queries_find_vectors_before_padding(metric: str, size: float) -> None:
    few = indexed(30, metric=metric)
    rng = np.random.default_rng(0)
    queries = np.float32(size * rng.uniform(-1, 1, few.queries.shape))
    distances, ids = Searcher(few.bundle).search(queries, 40, nprobe=LISTS)
    padding = ids < 0
    assert (padding[:, 1:] >= padding[:, :-1]).all()
    assert not np.isnan(distances).any()
    sign = 1 if metric == "l2" else -1
    assert (sign * distances[:, 1:] >= sign * distances[:, :-1]).all()
    for row in ids:
        real = row[row >= 0]
        assert len(np.unique(real)) == len(real)
