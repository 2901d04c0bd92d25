"""The searcher against brute force over the same reconstructions; what is defined for odd input."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from qinco_lit import Searcher
from qinco_lit.search.index.bundle import save
from tests.search.indexes import DIM, LISTS, Indexed, indexed


def brute_force(given: Indexed, k: int, x_hat: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    rows = given.x_hat if x_hat is None else x_hat
    queries = given.queries.astype(np.float64)
    if given.bundle.metric == "l2":
        scores = ((queries[:, None] - rows[None]) ** 2).sum(-1)
    else:
        scores = queries @ rows.T.astype(np.float64)
    # float32, or rounding would tell equal codes apart
    sign = 1 if given.bundle.metric == "l2" else -1
    keys = (np.broadcast_to(given.ids, scores.shape), np.float32(sign * scores))
    order = np.lexsort(keys, axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), given.ids[order]


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("codebook_size", [16, 300])
def test_everything_shortlisted_is_exact_search_in_the_decoded_database(metric: str, codebook_size: int) -> None:
    given = indexed(metric=metric, codebook_size=codebook_size, pairwise=False)
    expected, ids = brute_force(given, 7)
    distances, found = Searcher(given.bundle).search(given.queries, 7, nprobe=LISTS, num_additive=400)
    np.testing.assert_allclose(distances, expected, rtol=2e-5, atol=1e-4)
    assert (found == ids).mean() > 0.99
    assert distances.dtype == np.float32
    assert found.dtype == np.int64


def test_every_stage_ranks_by_its_own_decoder() -> None:
    given = indexed()
    centroids = given.bundle.codec.coarse_centroids
    assert centroids is not None
    assert given.bundle.pairwise is not None
    start = centroids[given.list_ids]
    additive = start + given.bundle.additive.decode(given.codes)
    pairwise = start + given.bundle.pairwise.decode(given.list_ids, given.codes)
    trace = Searcher(given.bundle).trace(given.queries, 5, nprobe=LISTS, num_additive=400, num_pairwise=400)
    assert list(trace.stages) == ["additive", "pairwise", "decode"]
    for name, x_hat in {"additive": additive, "pairwise": pairwise, "decode": given.x_hat}.items():
        agreement = (trace.stages[name].ids[:, :5] == brute_force(given, 5, x_hat)[1]).mean()
        assert agreement > 0.97, name
    np.testing.assert_array_equal(trace.stages["decode"].ids, trace.ids)


def test_shortlists_are_cut_where_the_parameters_say() -> None:
    searcher = Searcher(indexed().bundle)
    given = indexed()
    trace = searcher.trace(given.queries, 5, nprobe=LISTS, num_additive=50, num_pairwise=20)
    assert trace.stages["additive"].ids.shape == (40, 50)
    assert trace.stages["pairwise"].ids.shape == (40, 20)
    for query in range(40):
        assert set(trace.ids[query]) <= set(trace.stages["pairwise"].ids[query])
        assert set(trace.stages["pairwise"].ids[query]) <= set(trace.stages["additive"].ids[query])
    # numbers too small for what follows are raised to it
    assert searcher.trace(given.queries, 30, nprobe=LISTS, num_additive=1, num_pairwise=2).ids.shape == (40, 30)


def test_a_query_finds_the_same_alone_and_in_any_batch() -> None:
    given = indexed()
    searcher = Searcher(given.bundle)
    together = searcher.search(given.queries, 5, nprobe=4, num_additive=60)
    for query in range(0, 40, 7):
        alone = searcher.search(given.queries[query : query + 1], 5, nprobe=4, num_additive=60)
        np.testing.assert_array_equal(alone[1][0], together[1][query])
        np.testing.assert_allclose(alone[0][0], together[0][query], rtol=1e-5, atol=1e-5)


def test_memory_of_a_vector_is_stated(tmp_path: Path) -> None:
    given = indexed(codebook_size=256)
    save(given.bundle, tmp_path / "index")
    searcher = Searcher.load(tmp_path / "index")
    assert searcher.bytes_per_vector == {"codes": 4, "norm": 2, "id": 8}
    of_lists = f"dim {searcher.dim}, lists {searcher.num_lists}, {searcher.metric}"
    assert repr(searcher) == f"Searcher({len(searcher)} vectors, 4+2+8 bytes each, {of_lists})"
    assert Searcher.load(tmp_path / "index", mmap=True).bytes_per_vector == {"codes": 4, "norm": 1, "id": 8}


def test_more_vectors_than_there_are_give_minus_one() -> None:
    given = indexed(30)
    for metric, worst in (("l2", np.inf), ("ip", -np.inf)):
        searcher = Searcher(indexed(30, metric=metric).bundle)
        distances, ids = searcher.search(given.queries, 50, nprobe=LISTS)
        assert (np.sort(ids[:, :30]) == np.sort(given.ids)).all()
        assert (ids[:, 30:] == -1).all()
        assert (distances[:, 30:] == worst).all()


def test_no_queries_give_no_results() -> None:
    searcher = Searcher(indexed(30).bundle)
    distances, ids = searcher.search(np.empty((0, DIM), np.float32), 4)
    assert distances.shape == ids.shape == (0, 4)


def test_queries_of_any_dtype_of_vectors() -> None:
    given = indexed()
    searcher = Searcher(given.bundle)
    whole = np.clip(np.rint(given.queries), 0, 255)
    expected = searcher.search(np.float32(whole), 3)
    for dtype in (np.uint8, np.float64, np.float16):
        np.testing.assert_array_equal(searcher.search(whole.astype(dtype), 3)[1], expected[1])


def test_lists_of_numbers_are_queries_and_vectors() -> None:
    given, other = indexed(), indexed()
    searcher, second = Searcher(given.bundle), Searcher(other.bundle)
    np.testing.assert_array_equal(searcher.add(given.x[:3].tolist(), [900, 901, 902]), [900, 901, 902])
    second.add(given.x[:3], np.array([900, 901, 902]))
    for one, two in zip(searcher.search(given.queries.tolist(), 5), second.search(given.queries, 5), strict=True):
        np.testing.assert_array_equal(one, two)
    whole = np.rint(given.queries)
    np.testing.assert_array_equal(searcher.search(whole.astype(int).tolist(), 5)[1], searcher.search(whole, 5)[1])
    searcher.add(np.rint(given.x[:3]).astype(int).tolist())
    with pytest.raises(ValueError, match=r"^queries are no array of numbers: give an array, or lists of one length$"):
        searcher.search([[1.0] * DIM, [2.0]])


def test_autocast_around_a_searcher_changes_nothing() -> None:
    given, other = indexed(), indexed()
    searcher, second = Searcher(given.bundle), Searcher(other.bundle)
    searcher.add(given.x[:50])
    expected = searcher.search(given.queries, 5, num_pairwise=50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        second.add(given.x[:50])
        found = second.search(given.queries, 5, num_pairwise=50)
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("away", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_searcher_says_how_other_processes_get_it(away: Callable[[Searcher], object]) -> None:
    with pytest.raises(
        TypeError, match=r"^a Searcher is not pickled, .*: give processes its folder, .*mmap=True.*$"
    ) as no:
        away(Searcher(indexed().bundle))
    assert "\n" not in str(no.value)


def test_cosine_does_not_depend_on_the_length_of_a_query() -> None:
    given = indexed(metric="cosine")
    searcher = Searcher(given.bundle)
    np.testing.assert_array_equal(searcher.search(given.queries * 37, 5)[1], searcher.search(given.queries, 5)[1])


def test_bad_queries_and_parameters_are_refused_in_one_line() -> None:
    given = indexed(30, pairwise=False)
    searcher = Searcher(given.bundle)
    bad = given.queries.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"^query 3 holds NaN or infinity$"):
        searcher.search(bad)
    with pytest.raises(ValueError, match=r"^queries of shape \(40, 3\) do not fit this index: expected \(n, 16\)$"):
        searcher.search(given.queries[:, :3])
    for name in ("k", "nprobe", "ef_search", "num_additive"):
        with pytest.raises(ValueError, match=f"^{name}=0: give at least 1$"):
            searcher.search(given.queries, **{name: 0})
    with pytest.raises(ValueError, match=r"^num_pairwise=5: the index has no pairwise decoder \(num_pairwise=0\)$"):
        searcher.search(given.queries, num_pairwise=5)
    with pytest.raises(ValueError, match=r"^num_pairwise=-1: give at least 0$"):
        searcher.search(given.queries, num_pairwise=-1)


def test_a_search_changes_neither_the_index_nor_the_threads() -> None:
    given = indexed()
    searcher = Searcher(given.bundle, num_threads=2)
    before = faiss.omp_get_max_threads()
    first = searcher.search(given.queries, 5, nprobe=2)
    searcher.search(given.queries, 5, nprobe=LISTS, ef_search=200, num_additive=300, num_pairwise=100)
    again = searcher.search(given.queries, 5, nprobe=2)
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[0], again[0])
    assert faiss.omp_get_max_threads() == before


def test_screened_decoding_finds_what_float32_finds() -> None:
    given = indexed()
    parameters = {"nprobe": LISTS, "num_additive": 200}
    expected = Searcher(given.bundle, precision="float32").search(given.queries, 6, **parameters)
    screened = Searcher(indexed().bundle, precision="screened")
    distances, ids = screened.search(given.queries, 6, **parameters)
    assert screened.precision == "screened"
    assert (ids == expected[1]).mean() > 0.99
    np.testing.assert_allclose(distances[ids == expected[1]], expected[0][ids == expected[1]], rtol=1e-5)
    rough = Searcher(indexed().bundle, precision="bfloat16").search(given.queries, 6, **parameters)
    assert 0 < np.abs(rough[0] - expected[0]).max() < 0.05 * expected[0].max()
    with pytest.raises(ValueError, match=r"^precision=half is unknown: choose from auto, "):
        Searcher(indexed().bundle, precision="half")


def test_mapped_lists_find_what_lists_in_memory_find(tmp_path: Path) -> None:
    given = indexed()
    save(given.bundle, tmp_path / "index")
    parameters = {"nprobe": 5, "num_additive": 200, "num_pairwise": 100}
    in_memory = Searcher.load(tmp_path / "index").search(given.queries, 6, **parameters)
    mapped = Searcher.load(tmp_path / "index", mmap=True)
    distances, ids = mapped.search(given.queries, 6, **parameters)
    np.testing.assert_array_equal(ids, in_memory[1])
    np.testing.assert_array_equal(distances, in_memory[0])
    with pytest.raises(ValueError, match=r"^the lists are mapped from disk: they can be searched, not changed"):
        mapped.add(given.x)
    with pytest.raises(ValueError, match=r"^the lists are mapped from disk"):
        mapped.remove([1])


# -- adding, removing, saving -----------------------------------------------------------------------------------------


def test_added_and_removed_vectors_are_as_if_built_that_way(tmp_path: Path) -> None:
    whole, part = indexed(), indexed()
    searcher = Searcher(part.bundle)
    assert searcher.remove(part.ids[100:250]) == 150
    assert searcher.remove(part.ids[100:250]) == 0
    assert len(searcher) == 250
    found = searcher.search(part.queries, 250, nprobe=LISTS, num_pairwise=0)[1]
    assert not np.isin(found, part.ids[100:250]).any()
    np.testing.assert_array_equal(searcher.add(part.x[100:250], part.ids[100:250]), part.ids[100:250])
    searcher.save(tmp_path / "index")
    expected = Searcher(whole.bundle).search(whole.queries, 9, nprobe=LISTS, num_additive=400)
    for again in (searcher, Searcher.load(tmp_path / "index")):
        distances, ids = again.search(whole.queries, 9, nprobe=LISTS, num_additive=400)
        np.testing.assert_allclose(distances, expected[0], rtol=1e-6, atol=1e-5)
        assert (ids == expected[1]).mean() > 0.97
        assert len(again) == 400


def test_ids_count_on_from_the_largest() -> None:
    given = indexed()
    searcher = Searcher(given.bundle)
    new = searcher.add(given.x[:3])
    assert new.tolist() == (given.ids.max() + 1 + np.arange(3)).tolist()
    found = searcher.search(given.x[:3], 2, nprobe=LISTS, num_pairwise=0)[1]
    for row in range(3):  # the same vector twice: old and new id share the first places
        assert set(found[row]) == {given.ids[row], new[row]}
    assert searcher.add(given.x[:0]).tolist() == []


def test_cosine_adds_vectors_at_unit_length() -> None:
    given = indexed(metric="cosine")
    searcher = Searcher(given.bundle)
    short, long = searcher.add(given.x[:5]), searcher.add(128 * given.x[:5])
    distances, ids = searcher.search(given.x[:5], 50, nprobe=LISTS)
    for row in range(5):
        (first,), (second,) = (distances[row][ids[row] == new[row]] for new in (short, long))
        assert first == second
        assert abs(first) < 1.5


def test_nothing_is_added_with_bad_ids_or_vectors() -> None:
    given = indexed(30)
    searcher = Searcher(given.bundle)
    bad = given.x[:2].copy()
    bad[1, 0] = np.inf
    for x, ids, message in (
        (given.x[:2], [-1, 5000], r"^id -1 is negative$"),
        (given.x[:2], [5000, 5000], r"^id 5000 is given twice"),
        (given.x[:2], [5000, given.ids[4]], rf"^id {given.ids[4]} is in the index already"),
        (given.x[:2], [5000], r"^ids of shape \(1,\) and dtype int64: expected \(2,\) integers$"),
        (given.x[:2], [0.5, 1.5], r"^ids of shape \(2,\) and dtype float64: expected \(2,\) integers$"),
        (bad, [5000, 5001], r"^vector 1 holds NaN or infinity"),
        (given.x[:2, :5], [5000, 5001], r"do not fit this codec"),
    ):
        with pytest.raises(ValueError, match=message):
            searcher.add(x, np.asarray(ids))
        assert len(searcher) == 30


def test_a_failed_save_leaves_the_searcher_and_the_directory_as_they_were(tmp_path: Path) -> None:
    given = indexed()
    searcher = Searcher(given.bundle)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    before = searcher.search(given.queries, 5)
    with pytest.raises(ValueError, match=r"mine exists and is no index: name another directory$"):
        searcher.save(tmp_path / "mine")
    np.testing.assert_array_equal(searcher.search(given.queries, 5)[1], before[1])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
