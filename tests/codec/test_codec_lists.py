"""An IVF codec given the lists of its vectors."""

import numpy as np
import pytest
import torch

from qinco_lit.codec import Codec
from qinco_lit.quantizers import kmeans
from qinco_lit.quantizers.kmeans import nearest_codeword
from tests.models import random_quantizer

NUM_LISTS = 9


@pytest.fixture(scope="module")
def codec() -> Codec:
    sizes = {"num_steps": 3, "codebook_size": 16, "hidden_dim": 8, "num_blocks": 1, "num_candidates": 4, "beam_size": 3}
    quantizer = random_quantizer(6, **sizes, num_lists=NUM_LISTS)
    assert quantizer.coarse_centroids is not None
    quantizer.coarse_centroids.normal_(generator=torch.Generator().manual_seed(0))
    return Codec(quantizer, precision="float32")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(scale=2.5, size=(500, 6)).astype(np.float32)


def test_centroids_are_in_the_space_of_the_vectors(codec: Codec, x: np.ndarray) -> None:
    centroids = codec.coarse_centroids
    assert centroids is not None
    assert (centroids.shape, centroids.dtype) == ((NUM_LISTS, 6), np.float32)
    nearest = ((x[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(codec.encode(x)[0], nearest)
    centroids[:] = 0  # a copy
    assert codec.coarse_centroids is not None
    assert codec.coarse_centroids.any()


def test_given_lists_are_those_it_would_find(codec: Codec, x: np.ndarray) -> None:
    list_ids, codes = codec.encode(x)
    for given in (list_ids, list_ids.astype(np.int64), torch.from_numpy(list_ids)):
        again, with_given = codec.encode(x, list_ids=given)
        np.testing.assert_array_equal(again, list_ids)
        np.testing.assert_array_equal(with_given, codes)
        assert again.dtype == np.int32
    as_torch = codec.encode(torch.from_numpy(x), list_ids=list_ids)
    assert torch.equal(as_torch[1], torch.from_numpy(codes))


def test_given_lists_are_taken_as_they_are(codec: Codec, x: np.ndarray) -> None:
    second = np.full(len(x), 4, np.int32)
    list_ids, codes = codec.encode(x, list_ids=second)
    np.testing.assert_array_equal(list_ids, second)
    nearest, best = codec.encode(x)
    away = nearest != 4
    assert (codes[~away] == best[~away]).all()
    # codes made for another list describe the vector from there: they are better there than the nearest list's codes
    errors = [((codec.decode(c, list_ids=second) - x) ** 2).sum(1).mean() for c in (codes, best)]
    assert errors[0] < errors[1]


def test_chunks_do_not_matter(codec: Codec, x: np.ndarray) -> None:
    list_ids, codes = codec.encode(x)
    small = Codec(codec.quantizer, precision="float32", workspace_bytes=20_000)
    for given in (None, list_ids):
        again = small.encode(x, list_ids=given)
        np.testing.assert_array_equal(again[0], list_ids)
        np.testing.assert_array_equal(again[1], codes)
    empty = codec.encode(x[:0], list_ids=list_ids[:0])
    assert (empty[0].shape, empty[1].shape) == ((0,), (0, 3))


@pytest.mark.parametrize(
    ("list_ids", "message"),
    [
        (np.zeros(3, np.int32), r"list_ids of shape \(3,\) do not fit vectors of shape \(500, 6\)"),
        (np.zeros((500, 1), np.int32), r"list_ids of shape \(500, 1\) do not fit vectors of shape \(500, 6\)"),
        (np.zeros(500, np.float32), "list_ids of dtype torch.float32 are refused: expected int32"),
        (np.arange(500, dtype=np.int32) - 1, "list id -1 at row 0 is out of range: num_lists is 9"),
        (np.arange(500, dtype=np.int32), "list id 9 at row 9 is out of range: num_lists is 9"),
    ],
)
def test_lists_that_do_not_fit(codec: Codec, x: np.ndarray, list_ids: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        codec.encode(x, list_ids=list_ids)


def test_a_plain_codec_has_no_lists(x: np.ndarray) -> None:
    plain = Codec(random_quantizer(6, num_steps=2, codebook_size=16, num_candidates=4, beam_size=2))
    assert plain.coarse_centroids is None
    with pytest.raises(ValueError, match="^list_ids are given, but this codec has no lists: only an IVF codec takes"):
        plain.encode(x, list_ids=np.zeros(500, np.int32))


def test_many_centroids_are_compared_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, table = torch.randn((300, 6), generator=generator), torch.randn((100, 6), generator=generator)
    table[60] = table[20]  # of equal ones the first
    x[7] = table[20]
    whole = nearest_codeword(x, table)
    assert whole[7] == 20
    monkeypatch.setitem(kmeans._TILE_CODEWORDS, "cpu", 32)
    monkeypatch.setitem(kmeans._TILE_SCORES, "cpu", 32 * 11)
    assert torch.equal(nearest_codeword(x, table), whole)
    assert torch.equal(whole, torch.cdist(x, table).argmin(1))
