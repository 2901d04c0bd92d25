"""Codes of a vector as one number: packed into no more bits than they need, or hashed to find equal ones."""

from functools import cache

import numpy as np
from jaxtyping import Int64, Integer, UInt8, UInt64

_LIMB_BITS = 16  # limb x codebook_size + carry fits 32 bits for every codebook_size up to 65536
_LIMB_MASK = np.uint32((1 << _LIMB_BITS) - 1)
_SEED = 0x51  # of the keys of rows


def packed_bits(num_steps: int, codebook_size: int) -> int:
    """Bits of a packed vector: ceil(num_steps x log2(codebook_size))."""
    num_codes: int = codebook_size**num_steps
    return (num_codes - 1).bit_length()


def packed_bytes(num_steps: int, codebook_size: int) -> int:
    """Bytes of a packed vector: its bits, rounded up to whole bytes."""
    return -(-packed_bits(num_steps, codebook_size) // 8)


def pack_codes(codes: Integer[np.ndarray, "n steps"], codebook_size: int) -> UInt8[np.ndarray, "n bytes"]:
    """Write the codes of each vector as the number sum(codes[m] x codebook_size^m), little-endian.

    For a codebook_size that is a power of two these are the codes' bits one after the other, lowest first, as in
    `faiss.pack_bitstrings`.
    """
    num_rows, num_steps = codes.shape
    num_bytes = packed_bytes(num_steps, codebook_size)
    limbs = np.zeros((-(-num_bytes // 2), num_rows), dtype=np.uint32)
    for step in reversed(range(num_steps)):
        used = -(-packed_bytes(num_steps - step, codebook_size) // 2)
        carry = codes[:, step].astype(np.uint32)
        for limb in limbs[:used]:
            limb *= np.uint32(codebook_size)
            limb += carry
            np.right_shift(limb, _LIMB_BITS, out=carry)
            limb &= _LIMB_MASK
    words = np.ascontiguousarray(limbs.T, dtype="<u2")
    return np.ascontiguousarray(words.view(np.uint8)[:, :num_bytes])


def unpack_codes(
    packed: UInt8[np.ndarray, "n bytes"], num_steps: int, codebook_size: int
) -> Integer[np.ndarray, "n steps"]:
    """Read what `pack_codes` wrote: codes (n, num_steps), uint8, or uint16 when codebook_size > 256."""
    num_rows, num_bytes = packed.shape
    padded = np.zeros((num_rows, num_bytes + num_bytes % 2), dtype=np.uint8)
    padded[:, :num_bytes] = packed
    limbs = np.ascontiguousarray(padded.view("<u2").T, dtype=np.uint32)
    codes = np.empty((num_rows, num_steps), dtype=np.uint8 if codebook_size <= 256 else np.uint16)
    for step in range(num_steps):
        used = -(-packed_bytes(num_steps - step, codebook_size) // 2)
        rest = np.zeros(num_rows, dtype=np.uint32)
        for limb in limbs[:used][::-1]:
            rest <<= np.uint32(_LIMB_BITS)
            rest |= limb
            np.floor_divide(rest, np.uint32(codebook_size), out=limb)
            rest -= limb * np.uint32(codebook_size)
        codes[:, step] = rest
    return codes


def row_keys(rows: Integer[np.ndarray, "n columns"]) -> UInt64[np.ndarray, " n"]:
    """A number above 0 for each row: the same for equal rows, and all but surely another one for different ones."""
    keys: UInt64[np.ndarray, " n"] = np.maximum(rows.astype(np.uint64) @ _factors(rows.shape[1]), 1)
    return keys


@cache
def _factors(number: int) -> UInt64[np.ndarray, " number"]:
    return np.random.default_rng(_SEED).integers(1 << 63, size=(number,), dtype=np.uint64) * 2 + 1


def distinct_rows(
    rows: Integer[np.ndarray, "n columns"],
) -> tuple[Int64[np.ndarray, " distinct"], Int64[np.ndarray, " n"]]:
    """Where each different row comes first, and for every row which of those it is.

    What is computed of `rows[first]` and then taken at `place` is equal for equal rows bit for bit; a matrix product of
    all rows need not be, as its rounding may depend on a row's place and on the processor.
    """
    keys = row_keys(rows)
    ordered = np.sort(keys)
    if not (ordered[1:] == ordered[:-1]).any():  # as nearly always on the shortlist of one query
        every = np.arange(len(rows))
        return every, every
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    if not np.array_equal(rows[first[place]], rows):  # two different rows of one key
        _, first, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, place.reshape(-1)
