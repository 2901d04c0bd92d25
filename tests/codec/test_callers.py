"""What callers do around a codec: autocast, inference mode, training on its results, lists, other processes."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qinco_lit.codec import Codec
from qinco_lit.quantizers import build_quantizer
from tests.models import random_quantizer, randomize

DIM = 8
SIZES = {"codebook_size": 16, "embed_dim": 6, "hidden_dim": 12, "num_blocks": 2, "num_candidates": 4, "beam_size": 3}


def _codec(kind: str, **options: Any) -> Codec:
    if kind == "parts":
        quantizer = build_quantizer(DIM, num_parts=2, num_steps=4, opq=True, **SIZES)
        for number, part in enumerate(quantizer.parts):
            randomize(part, torch.Generator().manual_seed(number))
        quantizer.data_mean.copy_(torch.arange(DIM) / 4 - 1)
        quantizer.data_std.fill_(2.5)
        quantizer.rotation.copy_(torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0)))[0])
        return Codec(quantizer, **options)
    lists = {"num_lists": 5} if kind == "lists" else {}
    quantizer = random_quantizer(DIM, num_steps=3, **SIZES, **lists)
    if quantizer.coarse_centroids is not None:
        quantizer.coarse_centroids.normal_(generator=torch.Generator().manual_seed(0))
    return Codec(quantizer, **options)


@pytest.fixture(params=["plain", "lists", "parts"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return _codec(request.param, precision="float32")


@pytest.fixture
def x() -> Tensor:
    return 3 * torch.randn((40, DIM), generator=torch.Generator().manual_seed(0))


def _results(codec: Codec, x: Any) -> list[Any]:
    """Whatever a codec returns, of numpy or of torch."""
    codes = codec.encode(x)
    lists = {}
    if codec.num_lists is not None:
        lists = {"list_ids": codes[0]}
        codes = codes[1]
    return [*lists.values(), codes, codec.decode(codes, **lists), *codec.decode_steps(codes, **lists)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_a_codec_changes_nothing(codec: Codec, x: Tensor, dtype: torch.dtype) -> None:
    expected = _results(codec, x)
    with torch.autocast("cpu", dtype=dtype):
        inside = _results(codec, x)
        walk = codec.decode_steps(
            expected[-codec.num_steps - 2], list_ids=None if codec.num_lists is None else expected[0]
        )
        next(walk)
        assert torch.is_autocast_enabled("cpu")  # a walk that is under way leaves the caller's arithmetic alone
    for one, other in zip(expected, inside, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_codec_that_is_made_or_fitted_under_autocast_is_the_same(x: Tensor) -> None:
    codecs = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            codecs.append(Codec(random_quantizer(DIM, num_steps=3, **SIZES | {"num_candidates": 0})))
            codecs[-1].fit_preselector(x)
    states = [codec.quantizer.state_dict() for codec in codecs]
    for name, weight in states[0].items():
        torch.testing.assert_close(weight, states[1][name], rtol=0, atol=0)
    torch.testing.assert_close(codecs[0].encode(x, num_candidates=4), codecs[1].encode(x, num_candidates=4))


def test_results_are_ordinary_tensors_to_write_in_and_to_train_on(codec: Codec, x: Tensor) -> None:
    for result in _results(codec, x):
        assert not result.is_inference()
        result[0] = 0
        if result.is_floating_point():
            weight = torch.ones(DIM, requires_grad=True)
            (result * weight).sum().backward()
            torch.testing.assert_close(weight.grad, result.sum(0))


def test_results_of_arrays_can_be_written_in(codec: Codec, x: Tensor) -> None:
    for result in _results(codec, x.numpy()):
        assert result.flags.writeable
        assert result.base is None or result.flags.c_contiguous
        result[0] = 0


def test_lists_are_taken_as_arrays_are(codec: Codec, x: Tensor) -> None:
    expected = _results(codec, x.numpy())
    for one, other in zip(expected, _results(codec, x.tolist()), strict=True):
        assert isinstance(other, np.ndarray)
        np.testing.assert_array_equal(one, other)
    first = 0 if codec.num_lists is None else 1
    lists = {} if codec.num_lists is None else {"list_ids": expected[0].tolist()}
    codes = expected[first].tolist()
    np.testing.assert_array_equal(codec.decode(codes, **lists), expected[first + 1])
    np.testing.assert_array_equal(list(codec.decode_steps(codes, **lists)), expected[first + 2 :])
    if lists:
        np.testing.assert_array_equal(codec.encode(x.tolist(), **lists)[1], expected[1])


def test_integers_of_lists_are_numbers_like_others() -> None:
    codec, rows = _codec("plain"), [[number % 5 for number in range(first, first + DIM)] for first in range(6)]
    np.testing.assert_array_equal(codec.encode(rows), codec.encode(np.float32(rows)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0] * DIM, [1.0] * 3], r"^vectors are no array of numbers: give an array, or lists of one length$"),
        ([1.0] * DIM, r"^vectors of shape \(8,\) do not fit this codec: expected \(n, 8\)$"),
        ([], r"^vectors of shape \(0,\) do not fit this codec: expected \(n, 8\)$"),
        ([["1"] * DIM], r"^arrays of dtype <U1 are not supported: give float32 or uint8"),
        ([[True] * DIM], r"^arrays of dtype bool are not supported: give float32 or uint8"),
    ],
)
def test_lists_that_are_no_vectors_are_refused_in_one_line(rows: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _codec("plain").encode(rows)


@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16"}])
def test_a_codec_goes_to_another_process_as_it_is(x: Tensor, options: dict[str, Any]) -> None:
    codec = _codec("lists", workspace_bytes=1 << 20, **options)
    codec.weights_sha256, codec.truncated_from = "of", {"weights_sha256": "what", "num_steps": 9}
    for other in (pickle.loads(pickle.dumps(codec)), copy.deepcopy(codec)):
        assert (other.precision, other.workspace_bytes) == (codec.precision, codec.workspace_bytes)
        assert (other.weights_sha256, other.truncated_from) == (codec.weights_sha256, codec.truncated_from)
        for one, two in zip(_results(codec, x), _results(other, x), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0)
