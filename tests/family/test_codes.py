"""Encoded, verified, decoded, truncated: stores and files hold what `Codec` says."""

import numpy as np
import pytest

from qinco_lit import Codec
from qinco_lit.vectors import open_codes
from tests.family.members import ENCODER, ROWS, Walk, mse


def test_the_store_holds_the_codes_in_as_few_bits_as_they_need(walk: Walk) -> None:
    store = open_codes(walk.path("codes.h5"))
    found = walk.codec.encode(walk.rows("base"))
    codes = found if walk.list_ids is None else found[1]
    np.testing.assert_array_equal(store[:], codes)
    assert store.dtype == codes.dtype == (np.uint8 if walk.member.codebook_size <= 256 else np.uint16)
    if walk.list_ids is not None:
        np.testing.assert_array_equal(walk.list_ids, found[0])
    assert store.info.stored_columns == -(-walk.member.bits // 8)
    assert store.info.bytes_per_vector == -(-walk.member.bits // 8) + (4 if walk.member.has_lists else 0)
    assert walk.qinco("verify", "@/codes.h5") == ""


def test_the_decoded_file_is_that_of_the_codec_and_its_error_that_of_the_evaluation(walk: Walk) -> None:
    x_hat = np.load(walk.path("decoded.npy"))
    assert (x_hat.shape, x_hat.dtype) == ((ROWS, walk.codec.dim), np.float32)
    np.testing.assert_array_equal(x_hat, walk.decoded(walk.codes))
    assert mse(walk.rows("base"), x_hat) == pytest.approx(walk.metrics["methods"]["codec"]["mse"], rel=1e-5)


def test_the_truncated_store_and_codec_are_prefixes(walk: Walk) -> None:
    steps = walk.member.least_steps + 1
    for source, output in {"codes.h5": "first.h5", "codec": "first"}.items():
        assert walk.qinco("truncate", f"@/{source}", "--num-steps", str(steps), "--output", f"@/{output}") == ""
    assert walk.qinco("verify", "@/first.h5") == ""
    store, shorter = open_codes(walk.path("first.h5")), Codec.load(walk.path("first"), precision="float32")
    np.testing.assert_array_equal(store[:], walk.codes[:, :steps])
    if walk.list_ids is not None:
        np.testing.assert_array_equal(store.list_ids(), walk.list_ids)
    bits = (walk.member.codebook_size**steps - 1).bit_length()
    assert (shorter.num_steps, shorter.bits_per_vector, store.info.stored_columns) == (steps, bits, -(-bits // 8))
    # it encodes as the whole codec does with so many steps
    encoded = shorter.encode(walk.rows("base")), walk.codec.encode(walk.rows("base"), num_steps=steps)
    for ours, theirs in zip(*(encoded if walk.member.has_lists else ([each] for each in encoded)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    decoded = ("decode", "codec=@/first", "codes=@/first.h5", "output=@/first.npy", "device=cpu")
    assert walk.qinco(*decoded) == ""
    np.testing.assert_array_equal(np.load(walk.path("first.npy")), walk.decoded(walk.codes[:, :steps]))


def test_codes_of_a_shorter_search_are_stored_and_decoded(walk: Walk) -> None:
    steps = walk.member.num_steps - 1
    options = (f"num_steps={steps}", "packed=true", *ENCODER)
    assert walk.qinco("encode", "codec=@/codec", "input=base.npy", "output=@/shorter.h5", *options) == ""
    found = walk.codec.encode(walk.rows("base"), num_steps=steps)
    np.testing.assert_array_equal(open_codes(walk.path("shorter.h5"))[:], found if walk.list_ids is None else found[1])
    point = walk.metrics["rates"]["points"][steps - 1]
    assert mse(walk.rows("base"), walk.encoded(steps)) == pytest.approx(point["encoded"]["mse"], rel=1e-4)
