"""Codes as numbers: nothing is lost, and no bit more is used than the issue's ceil(M log2 K)."""

import math

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinco_lit.vectors.code_packing import pack_codes, packed_bytes, unpack_codes


def slow_pack(row: list[int], codebook_size: int) -> bytes:
    number = sum(code * codebook_size**step for step, code in enumerate(row))
    return number.to_bytes(packed_bytes(len(row), codebook_size), "little")


@settings(max_examples=150)
@given(
    codebook_size=st.integers(2, 65536) | st.sampled_from([16, 255, 256, 257, 1000, 1024, 4096, 65535, 65536]),
    num_steps=st.integers(1, 20),
    num_rows=st.integers(0, 5),
    seed=st.integers(0, 2**32),
)
def test_round_trip_and_the_number_of_python(codebook_size, num_steps, num_rows, seed):
    codes = np.random.default_rng(seed).integers(0, codebook_size, (num_rows, num_steps))
    codes[:1] = codebook_size - 1
    packed = pack_codes(codes, codebook_size)
    assert [row.tobytes() for row in packed] == [slow_pack(row, codebook_size) for row in codes.tolist()]
    unpacked = unpack_codes(packed, num_steps, codebook_size)
    np.testing.assert_array_equal(unpacked, codes)
    assert unpacked.dtype == (np.uint8 if codebook_size <= 256 else np.uint16)


@pytest.mark.parametrize(
    ("codebook_size", "num_bytes"), [(16, 4), (256, 8), (1000, 10), (1024, 10), (4096, 12), (3, 2)]
)
def test_size_is_that_of_the_information(codebook_size, num_bytes):
    assert packed_bytes(8, codebook_size) == num_bytes == math.ceil(math.ceil(8 * math.log2(codebook_size)) / 8)


def test_powers_of_two_are_packed_as_in_faiss():
    codes = np.random.default_rng(0).integers(0, 1024, (50, 7)).astype(np.int32)
    np.testing.assert_array_equal(pack_codes(codes, 1024), faiss.pack_bitstrings(codes, 10))
