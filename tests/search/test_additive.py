"""The additive decoder solves the least-squares problem of its codes, from counts and sums alone."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinco_lit.search.decoders.additive import AdditiveDecoder, AdditiveFit


def coded(rows, num_steps, codebook_size, dim, seed=0, offset=0.0):
    """Vectors that are a noisy sum of codewords, and the codes of those."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, codebook_size, (rows, num_steps)).astype(np.uint8 if codebook_size <= 256 else np.uint16)
    codebooks = rng.normal(size=(num_steps, codebook_size, dim))
    x = sum(codebooks[step][codes[:, step]] for step in range(num_steps)) + 0.3 * rng.normal(size=(rows, dim)) + offset
    return codes, x.astype(np.float32)


def fitted(codes, x, codebook_size, pieces=1, **options):
    fit = AdditiveFit(codes.shape[1], codebook_size, x.shape[1], **options)
    for some_codes, some_x in zip(np.array_split(codes, pieces), np.array_split(x, pieces), strict=True):
        fit.add(some_codes, some_x)
    return fit.solve()


def mse(x, x_hat):
    return float(np.square(x.astype(np.float64) - x_hat).sum(1).mean())


def dense_mse(codes, x, codebook_size):
    one_hot = np.zeros((len(codes), codes.shape[1] * codebook_size))
    for step in range(codes.shape[1]):
        one_hot[np.arange(len(codes)), step * codebook_size + codes[:, step].astype(int)] = 1
    solution = np.linalg.lstsq(one_hot, x.astype(np.float64))[0]
    return mse(x, one_hot @ solution)


@settings(max_examples=25)
@given(
    num_steps=st.integers(1, 5), codebook_size=st.integers(2, 20), dim=st.integers(1, 6), seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, 100.0]),
)  # fmt: skip
def test_error_is_that_of_dense_least_squares(num_steps, codebook_size, dim, seed, offset):
    codes, x = coded(400, num_steps, codebook_size, dim, seed, offset)
    decoder, report = fitted(codes, x, codebook_size)
    expected = dense_mse(codes, x, codebook_size)
    rounding = 1e-7 * (offset + 10) * dim * expected**0.5  # of float32 codebooks
    assert mse(x, decoder.decode(codes)) == pytest.approx(expected, rel=2e-6, abs=rounding)
    assert report["mse"] == pytest.approx(expected, rel=2e-6, abs=rounding)
    assert report["mse_of_zero"] == pytest.approx(mse(x, 0), rel=1e-9)


def test_unused_codewords_and_columns_that_determine_each_other():
    codes, x = coded(600, 3, 16, 4)
    codes[:, 0] //= 2  # half of the codewords are never used
    codes[:, 2] = 15 - codes[:, 1]  # 16 more free directions than usual
    decoder, report = fitted(codes, x, 16)
    assert mse(x, decoder.decode(codes)) == pytest.approx(dense_mse(codes, x, 16), rel=1e-6)
    assert not decoder.codebooks[0, 8:].any()
    assert (report["num_unused_codewords"], report["free_directions"]) == (8, 10)


def test_free_directions_stay_small():
    codes, x = coded(3000, 6, 16, 4, offset=1000.0)
    decoder, _ = fitted(codes, x, 16)
    assert np.abs(decoder.codebooks).max() < 1.1 * 1000 / 6  # the offset, shared out evenly


def test_pieces_do_not_matter():
    codes, x = coded(20_000, 4, 16, 3)
    whole, pieces = fitted(codes, x, 16)[0].codebooks, fitted(codes, x, 16, pieces=7)[0].codebooks
    np.testing.assert_allclose(pieces, whole, rtol=1e-5, atol=1e-6)


def test_uint8_targets_and_codes_of_two_bytes():
    codes, x = coded(4000, 2, 300, 3)
    x = (40 * x + 128).clip(0, 255).astype(np.uint8)
    decoder, _ = fitted(codes, x, 300)
    assert codes.dtype == np.uint16
    assert mse(x, decoder.decode(codes)) == pytest.approx(dense_mse(codes, x, 300), rel=1e-6)


def test_decoding_sums_codewords():
    rng = np.random.default_rng(0)
    decoder = AdditiveDecoder(rng.normal(size=(3, 5, 4)).astype(np.float32))
    codes = rng.integers(0, 5, (50, 3))
    expected = [sum(decoder.codebooks[step, code] for step, code in enumerate(row)) for row in codes]
    np.testing.assert_allclose(decoder.decode(codes), expected, rtol=1e-5, atol=1e-6)
    assert decoder.decode(codes[:0]).shape == (0, 4)


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def test_mistakes_are_named():
    fit = AdditiveFit(2, 4, 3)
    x = np.zeros((5, 3), np.float32)
    with refused("the additive decoder needs training vectors, none were added"):
        fit.solve()
    with refused("codes of shape (5, 3) do not fit this decoder: expected (n, 2)"):
        fit.add(np.zeros((5, 3), np.uint8), x)
    with refused("targets of shape (4, 3) do not fit: expected (5, 3)"):
        fit.add(np.zeros((5, 2), np.uint8), x[:4])
    with refused("code 4 is out of range: codebook_size is 4"):
        fit.add(np.full((5, 2), 4, np.uint8), x)
    fit.add(np.zeros((5, 2), np.uint8), x)
    x[3, 1] = np.nan
    with refused("vector 8 holds NaN or infinity (after conversion to float32)"):
        fit.add(np.zeros((5, 2), np.uint8), x)


# -- beyond the size of a matrix: conjugate gradients -----------------------------------------------------------------


@settings(max_examples=25)
@given(
    num_steps=st.integers(1, 5), codebook_size=st.integers(2, 20), dim=st.integers(1, 6), seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, 100.0]),
)  # fmt: skip
def test_without_a_matrix_the_error_is_that_of_least_squares_too(num_steps, codebook_size, dim, seed, offset):
    codes, x = coded(400, num_steps, codebook_size, dim, seed, offset)
    decoder, report = fitted(codes, x, codebook_size, pieces=3, max_matrix_bytes=0)
    expected = dense_mse(codes, x, codebook_size)
    rounding = 1e-6 * (offset + 10) * dim * max(1, expected) ** 0.5  # of float32
    assert mse(x, decoder.decode(codes)) == pytest.approx(expected, rel=1e-5, abs=rounding)
    assert report["mse"] == pytest.approx(mse(x, decoder.decode(codes)), rel=1e-5, abs=rounding)
    assert {"ridge", "condition_at_least"}.isdisjoint(report)
    assert report["iterations"] < 100


def test_without_a_matrix_unused_codewords_and_free_directions_stay_small():
    codes, x = coded(3000, 6, 16, 4, offset=1000.0)
    codes[:, 0] //= 2
    decoder, report = fitted(codes, x, 16, max_matrix_bytes=0)
    assert not decoder.codebooks[0, 8:].any()
    assert np.abs(decoder.codebooks).max() < 1.1 * 1000 / 6
    assert (report["num_unused_codewords"], report["free_directions"]) == (8, 13)


def test_vectors_that_are_sums_of_codewords_are_decoded_as_they_are():
    rng = np.random.default_rng(0)
    codes, codebooks = rng.integers(0, 8, (2000, 3)), rng.normal(size=(3, 8, 5))
    x = np.float32(codebooks[np.arange(3), codes].sum(1))
    for max_matrix_bytes in (0, 1 << 30):
        decoder, report = fitted(codes, x, 8, max_matrix_bytes=max_matrix_bytes)
        np.testing.assert_allclose(decoder.decode(codes), x, rtol=0, atol=1e-4)
        assert report.get("iterations", 0) < 100


def test_the_matrix_is_left_out_where_it_would_be_too_large():
    codes, x = coded(3000, 12, 4096, 2)  # 19 GB
    decoder, report = fitted(codes, x, 4096)
    assert decoder.codebooks.shape == (12, 4096, 2)
    assert report["mse"] == pytest.approx(mse(x, decoder.decode(codes)), rel=1e-5, abs=1e-6)
    assert report["mse"] < 1e-3 * report["mse_of_zero"]  # more unknowns than vectors
