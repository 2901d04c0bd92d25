"""Re-ranking against brute force over the same shortlists."""

import numpy as np
import pytest

from qinco_lit.search.rerank import rerank
from qinco_lit.search.scan import Candidates

DIM, ROWS, QUERIES, SIZE = 8, 60, 25, 14


def shortlists(seed: int) -> tuple[np.ndarray, np.ndarray, Candidates]:
    rng = np.random.default_rng(seed)
    x_hat = np.float32(rng.normal(size=(ROWS, DIM)))
    queries = np.float32(rng.normal(size=(QUERIES, DIM)))
    ids = np.stack([rng.permutation(ROWS)[:SIZE] for _ in range(QUERIES)])
    ids[:, 9:][rng.random((QUERIES, SIZE - 9)) < 0.4] = -1
    codes = np.where(ids < 0, 0, ids)[..., None].astype(np.uint8)
    return x_hat, queries, Candidates(np.zeros(ids.shape, np.float32), ids, np.where(ids < 0, 0, 3).astype("i4"), codes)


def nowhere(codes: np.ndarray, list_ids: np.ndarray) -> np.ndarray:
    return np.zeros((len(codes), DIM), np.float32)


@pytest.mark.parametrize("inner_product", [False, True])
def test_the_best_reconstructions_come_first(inner_product: bool) -> None:
    x_hat, queries, candidates = shortlists(0)

    def decode(codes: np.ndarray, list_ids: np.ndarray) -> np.ndarray:
        assert (list_ids == 3).all()
        return x_hat[codes[:, 0]]

    found = rerank(queries, candidates, 10, decode, inner_product=inner_product)
    for query, ids in enumerate(candidates.ids):
        real = ids[ids >= 0]
        scores = -(x_hat[real] @ queries[query]) if inner_product else ((x_hat[real] - queries[query]) ** 2).sum(1)
        order = np.argsort(scores, kind="stable")[:10]
        expected = np.full(10, -1)
        expected[: len(order)] = real[order]
        np.testing.assert_array_equal(found.ids[query], expected)
        sign = -1 if inner_product else 1
        np.testing.assert_allclose(found.scores[query][: len(order)], sign * scores[order], rtol=1e-5, atol=1e-5)
        assert (found.scores[query][len(order) :] == sign * np.inf).all()
    np.testing.assert_array_equal(found.codes[..., 0][found.ids >= 0], found.ids[found.ids >= 0])


def test_a_vector_on_many_shortlists_is_decoded_once() -> None:
    x_hat, queries, candidates = shortlists(1)
    decoded: list[int] = []

    def decode(codes: np.ndarray, list_ids: np.ndarray) -> np.ndarray:
        decoded.extend(codes[:, 0].tolist())
        return x_hat[codes[:, 0]]

    rerank(queries, candidates, 3, decode, inner_product=False)
    assert sorted(decoded) == np.unique(candidates.ids[candidates.ids >= 0]).tolist()


def test_of_equal_scores_the_smaller_id_comes_first() -> None:
    _, queries, candidates = shortlists(2)
    found = rerank(queries, candidates, SIZE, nowhere, inner_product=False)
    for given, kept in zip(candidates.ids, found.ids, strict=True):
        np.testing.assert_array_equal(kept[kept >= 0], np.sort(given[given >= 0]))


@pytest.mark.parametrize("inner_product", [False, True])
def test_of_equal_codes_the_smaller_id_comes_first_whatever_decoding_rounds(inner_product: bool) -> None:
    x_hat, queries, candidates = shortlists(5)
    codes = np.concatenate([candidates.codes % 4, candidates.codes], axis=2)  # the first ones of many vectors are equal
    rng = np.random.default_rng(5)

    def decode(codes: np.ndarray, list_ids: np.ndarray) -> np.ndarray:
        assert codes.shape[1] == 1
        noise = rng.integers(-1, 2, size=(len(codes), DIM)).astype(np.float32)
        return x_hat[codes[:, 0]] * (1 + np.float32(2e-7) * noise)

    found = rerank(queries, candidates._replace(codes=codes), SIZE, decode, inner_product=inner_product, num_steps=1)
    for kept, read in zip(found.ids, found.codes[..., 0], strict=True):
        for code in range(4):
            equal = kept[(kept >= 0) & (read == code)]
            np.testing.assert_array_equal(equal, np.sort(equal))


def test_empty_shortlists() -> None:
    _, queries, candidates = shortlists(3)
    nothing = candidates._replace(ids=np.full_like(candidates.ids, -1))
    found = rerank(queries, nothing, 2, nowhere, inner_product=True)
    assert (found.ids == -1).all()
    assert (found.scores == -np.inf).all()


@pytest.mark.parametrize("inner_product", [False, True])
@pytest.mark.parametrize("size", [1e30, 3e38])
def test_vectors_come_before_empty_places_when_scores_overflow(inner_product: bool, size: float) -> None:
    _, queries, candidates = shortlists(4)
    rng = np.random.default_rng(4)
    far = np.float32(size * np.sign(queries))
    x_hat = np.float32(-1e10 * np.sign(rng.normal(size=(ROWS, DIM))))
    x_hat[::2] = -1e10  # inner products with most queries: infinities of both signs, so no number

    def decode(codes: np.ndarray, list_ids: np.ndarray) -> np.ndarray:
        return x_hat[codes[:, 0]]

    found = rerank(far, candidates, SIZE, decode, inner_product=inner_product)
    for given, kept, scores in zip(candidates.ids, found.ids, found.scores, strict=True):
        number = (given >= 0).sum()
        assert set(kept[:number]) == set(given[given >= 0])
        assert (kept[number:] == -1).all()
        assert not np.isnan(scores).any()
