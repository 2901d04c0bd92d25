"""Codes of the lists: residual k-means of the centroids, weighted by population."""

import re

import numpy as np
import pytest

from qinco_lit.devices import threads
from qinco_lit.search.decoders.pairwise import quantize_lists

K, DIM = 6, 4


def test_fewer_lists_than_codewords_have_a_first_code_of_their_own():
    centroids = np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)
    codes = quantize_lists(centroids, np.array([3, 0, 1, 7, 2]), num_codes=3, codebook_size=K)
    assert len(set(codes[:, 0].tolist())) == 5
    assert not codes[:, 1:].any()  # nothing is left to quantise
    wide = quantize_lists(centroids, np.zeros(5, np.int64), num_codes=1, codebook_size=300)
    assert (wide.dtype, wide.shape) == (np.dtype(np.uint16), (5, 1))
    assert quantize_lists(centroids, np.ones(5, np.int64), num_codes=0, codebook_size=K).shape == (5, 0)


def unexplained(centroids, codes, weights):
    """Squared error that the best codeword of every combination of codes leaves."""
    _, cells = np.unique(codes, axis=0, return_inverse=True)
    totals = np.bincount(cells, weights)
    means = np.stack([np.bincount(cells, weights * column) / totals for column in centroids.T], 1)
    return float((weights * np.square(centroids - means[cells]).sum(1)).sum() / weights.sum())


def test_each_code_explains_more_and_populous_lists_count_more():
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(400, 2)).astype(np.float32) + 100.0
    populations = np.where(centroids[:, 0] > 100.5, 1000, 1)
    codes = quantize_lists(centroids, populations, num_codes=3, codebook_size=8)
    errors = [unexplained(centroids, codes[:, :number], populations) for number in (1, 2, 3)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    unweighted = quantize_lists(centroids, np.ones(400, np.int64), num_codes=1, codebook_size=8)
    assert errors[0] < 0.6 * unexplained(centroids, unweighted, populations)
    assert unexplained(centroids, unweighted, np.ones(400)) < unexplained(centroids, codes[:, :1], np.ones(400))
    again = quantize_lists(centroids, populations, num_codes=3, codebook_size=8)
    np.testing.assert_array_equal(again, codes)


def test_populations_have_to_fit():
    with pytest.raises(ValueError, match=re.escape("3 populations do not fit 2 centroids")):
        quantize_lists(np.zeros((2, DIM), np.float32), np.ones(3, np.int64), num_codes=1, codebook_size=K)


def test_threads_change_nothing():
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(900, 24)).astype(np.float32)
    populations = rng.integers(0, 500, 900)
    found = []
    for number in (1, 2):
        with threads(number):
            found.append(quantize_lists(centroids, populations, num_codes=4, codebook_size=32))
    np.testing.assert_array_equal(*found)
