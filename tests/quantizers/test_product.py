"""PQ-QINCo: what a product of quantizers computes is what its parts compute by themselves."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from qinco_lit.codec import Codec
from qinco_lit.quantizers import build_quantizer
from tests import reference
from tests.models import alone
from tests.quantizers.products import DIM, encoded, joined, parted, random_product, random_rotation, vectors

QINCO1 = {"outer_skip": False, "num_candidates": 0, "beam_size": 1}
QINCO2 = {"embed_dim": 6, "num_candidates": 4, "beam_size": 5}
SIZES: dict[str, Any] = {"codebook_size": 16, "hidden_dim": 10, "num_blocks": 2}
SPLITS: dict[str, dict[str, Any]] = {
    "equal": {"num_parts": 3, "num_steps": 6},
    "unequal": {"num_parts": 3, "part_dims": [5, 3, 4], "num_steps": 7, "part_steps": [4, 1, 2]},
    "one": {"num_parts": 1, "num_steps": 3},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qinco1": QINCO1,
    "low_rank": {**QINCO1, "concat_rank": 3},
    "qinco2": QINCO2,
    "budget": {**QINCO2, "candidate_budget": 9},
    "ivf": {**QINCO2, "num_lists": 7},
}
ALL_SPLITS = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
ALL_FAMILIES = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


@ALL_FAMILIES
@ALL_SPLITS
@pytest.mark.parametrize("opq", [False, True])
def test_a_product_equals_its_parts_run_one_by_one(split: dict[str, Any], family: dict[str, Any], opq: bool) -> None:
    codec, x = Codec(random_product(**SIZES, **split, **family, opq=opq), precision="float32"), vectors()
    codes, lists = encoded(codec, x)
    assert codes.shape == (len(x), codec.num_steps)
    x_hat = []
    for part, own, columns in zip(*parted(codec, x), codec.quantizer.part_columns, strict=True):
        torch.testing.assert_close(codes[:, columns], encoded(part, own, **lists)[0])
        x_hat.append(part.decode(codes[:, columns], **lists))
    torch.testing.assert_close(codec.decode(codes, **lists), joined(codec, x_hat))


@settings(max_examples=30)
@given(
    part_dims=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    steps=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    opq=st.booleans(),
    order=st.sampled_from(["steps", "parts"]),
    beam_size=st.integers(1, 6),
    num_candidates=st.integers(0, 5),
    concat_rank=st.one_of(st.none(), st.integers(1, 3)),
    seed=st.integers(0, 100),
)
def test_search_and_every_prefix_equal_the_slow_loop(
    part_dims: list[int], steps: list[int], beam_size: int, num_candidates: int, seed: int, **options: Any
) -> None:
    part_steps = steps[: len(part_dims)]
    product = random_product(
        sum(part_dims),
        seed=seed,
        num_parts=len(part_dims),
        part_dims=part_dims,
        part_steps=part_steps,
        num_steps=sum(part_steps),
        codebook_size=6,
        hidden_dim=5,
        num_blocks=1,
        beam_size=beam_size,
        num_candidates=num_candidates,
        **options,
    )
    x = vectors(3, sum(part_dims))
    codec = Codec(product, precision="float32")
    codes = codec.encode(x)
    for row, found in zip(x.double().numpy(), codes.tolist(), strict=True):
        expected = reference.product_encode(product, row, num_candidates, beam_size)
        error = [((row - reference.product_decode(product, codes)) ** 2).sum() for codes in (found, expected)]
        assert found == expected or np.isclose(*error, rtol=1e-3)  # a tie in float32 may choose differently
    for length, x_hat in enumerate(codec.decode_steps(codes), start=1):
        slow = [reference.product_decode(product, row[:length]) for row in codes.tolist()]
        np.testing.assert_allclose(x_hat, slow, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(codec.decode(codes[:, :length]), x_hat)


@ALL_FAMILIES
@ALL_SPLITS
@pytest.mark.parametrize("order", ["steps", "parts"])
def test_a_prefix_is_the_parts_prefixes(split: dict[str, Any], family: dict[str, Any], order: str) -> None:
    """Decoded: the reconstruction of as many codes of each part. Encoded: each part's own shorter search."""
    codec, x = (
        Codec(random_product(**SIZES, **split, **family, opq=True, order=order), precision="float32"),
        vectors(60),
    )
    codes, lists = encoded(codec, x)
    for length in range(1, codec.num_steps + 1):
        shorter, _ = encoded(codec, x, num_steps=length)
        assert shorter.shape == (len(x), length)
        x_hat = []
        for part, own, columns in zip(*parted(codec, x), codec.quantizer.part_columns, strict=True):
            reached = [column for column in columns if column < length]
            if reached:
                torch.testing.assert_close(shorter[:, reached], encoded(part, own, num_steps=len(reached), **lists)[0])
                x_hat.append(part.decode(codes[:, reached], **lists))
            elif lists:
                x_hat.append(part.quantizer.raw_centroids()[lists["list_ids"].long()])
            else:
                x_hat.append(part.quantizer.data_mean.expand(len(x), -1))
        torch.testing.assert_close(codec.decode(codes[:, :length], **lists), joined(codec, x_hat))


@ALL_FAMILIES
@ALL_SPLITS
@pytest.mark.parametrize("order", ["steps", "parts"])
def test_a_truncated_product_is_the_first_columns(
    split: dict[str, Any], family: dict[str, Any], order: str, tmp_path: Path
) -> None:
    codec, x = (
        Codec(random_product(**SIZES, **split, **family, opq=True, order=order), precision="float32"),
        vectors(60),
    )
    codes, lists = encoded(codec, x)
    needed = 1 + max(columns[0] for columns in codec.quantizer.part_columns)
    for length in range(needed, codec.num_steps + 1):
        shorter = codec.truncated(length)
        torch.testing.assert_close(encoded(shorter, x)[0], encoded(codec, x, num_steps=length)[0])
        torch.testing.assert_close(shorter.decode(codes[:, :length], **lists), codec.decode(codes[:, :length], **lists))
    shorter.save(tmp_path / "codec")
    again = Codec.load(tmp_path / "codec", precision="float32")
    assert again.quantizer.config == shorter.quantizer.config
    torch.testing.assert_close(encoded(again, x)[0], encoded(shorter, x)[0])
    if needed > 1:
        expected = f"^num_steps={needed - 1}: a part would have no codes, give {needed} to {codec.num_steps}$"
        with pytest.raises(ValueError, match=expected):
            codec.truncated(needed - 1)


@ALL_SPLITS
def test_the_order_of_columns_is_all_that_it_changes(split: dict[str, Any]) -> None:
    by_steps, by_parts = (
        random_product(**SIZES, **split, **QINCO2, opq=True, order=order) for order in ("steps", "parts")
    )
    ours, theirs = Codec(by_steps), Codec(by_parts)
    codes, x = theirs.encode(vectors()), vectors()
    permuted = torch.empty_like(codes)
    for own, other in zip(by_steps.part_columns, by_parts.part_columns, strict=True):
        permuted[:, own] = codes[:, other]
    torch.testing.assert_close(ours.encode(x), permuted)
    torch.testing.assert_close(ours.decode(permuted), theirs.decode(codes))


def test_columns_take_turns() -> None:
    split = {"num_parts": 3, "part_dims": [5, 3, 4], "num_steps": 7, "part_steps": [4, 1, 2]}
    assert random_product(**SIZES, **split, **QINCO1).part_columns == [[0, 3, 5, 6], [1], [2, 4]]
    assert random_product(**SIZES, **split, **QINCO1, order="parts").part_columns == [[0, 1, 2, 3], [4], [5, 6]]
    equal = random_product(**SIZES, num_parts=2, num_steps=8, **QINCO1)
    assert equal.part_columns == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert equal.part_slices == [slice(0, 6), slice(6, 12)]


@ALL_FAMILIES
def test_rotated_data_have_the_same_codes(family: dict[str, Any]) -> None:
    """With the rotation R Q^T, data that were turned by Q look as before."""
    product = random_product(**SIZES, **SPLITS["unequal"], **family, opq=True)
    turned = random_product(**SIZES, **SPLITS["unequal"], **family, opq=True)
    assert product.rotation is not None
    assert turned.rotation is not None
    q, x = random_rotation(DIM, seed=9), vectors()
    turned.rotation.copy_(product.rotation @ q.T)
    before, after = Codec(product), Codec(turned)
    codes, lists = encoded(before, x)
    own, own_lists = encoded(after, x @ q.T)
    assert (own == codes).float().mean() >= 0.999
    assert all((own_lists[name] == lists[name]).all() for name in lists)
    torch.testing.assert_close(after.decode(codes, **lists), before.decode(codes, **lists) @ q.T, rtol=1e-4, atol=1e-4)


def test_without_rotation_it_is_the_identity() -> None:
    plain, identity = (random_product(**SIZES, **SPLITS["equal"], **QINCO2, opq=opq) for opq in (False, True))
    assert plain.rotation is None
    assert identity.rotation is not None
    identity.rotation.copy_(torch.eye(DIM))
    torch.testing.assert_close(Codec(identity).encode(vectors()), Codec(plain).encode(vectors()))


def test_a_product_of_one_part_is_that_part() -> None:
    product = random_product(**SIZES, num_parts=1, num_steps=4, **QINCO2)
    plain, x = alone(product, 0), vectors()
    assert plain.config == {**product.parts[0].config, "num_lists": None}
    torch.testing.assert_close(product.encode(product.normalize(x)), plain.encode(plain.normalize(x)))
    torch.testing.assert_close(product.denormalize(product.normalize(x)), x)


@pytest.mark.parametrize("opq", [False, True])
def test_the_list_is_that_of_the_whole_raw_vector(opq: bool) -> None:
    """Although the parts have different scales, and whatever the rotation is."""
    codec, x = Codec(random_product(**SIZES, **SPLITS["unequal"], **FAMILIES["ivf"], opq=opq)), vectors()
    centroids = codec.coarse_centroids
    assert centroids is not None
    expected = 3 * torch.randn((7, DIM), generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(centroids, expected, rtol=1e-4, atol=1e-5)
    list_ids, codes = codec.encode(x.numpy())
    np.testing.assert_array_equal(list_ids, ((x.numpy()[:, None] - centroids) ** 2).sum(2).argmin(1))
    assert list_ids.dtype == np.int32
    other = (list_ids + 1) % 7  # lists are taken as they are
    np.testing.assert_array_equal(codec.encode(x.numpy(), list_ids=other)[0], other)
    assert not np.array_equal(codec.encode(x.numpy(), list_ids=other)[1], codes)


@ALL_FAMILIES
def test_losses_are_those_of_the_parts(family: dict[str, Any]) -> None:
    product, x = random_product(**SIZES, **SPLITS["unequal"], **family, opq=True), vectors()
    normalized = product.normalize(x)
    lists = None if product.num_lists is None else product.assign_lists(normalized)
    codes = product.encode(normalized, list_ids=lists)
    losses = product.losses(normalized, codes, lists)
    own = [
        alone(product, number).losses(normalized[:, dims], columns, lists)
        for number, (dims, columns) in enumerate(zip(product.part_slices, product.part_codes(codes), strict=True))
    ]
    torch.testing.assert_close(losses.reconstruction, torch.cat([part.reconstruction for part in own]))
    torch.testing.assert_close(losses.preselector, torch.cat([part.preselector for part in own]))
    *_, x_hat = product.reconstructions(codes, lists)
    mse = (product.denormalize(x_hat) - x).double().square().sum(1).mean()
    torch.testing.assert_close(losses.mse, mse.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(product.raw_squared_error(x_hat, normalized), mse * len(x), rtol=1e-4, atol=0)


@ALL_FAMILIES
@ALL_SPLITS
def test_a_product_comes_back_from_its_config_and_its_folder(
    split: dict[str, Any], family: dict[str, Any], tmp_path: Path
) -> None:
    product = random_product(**SIZES, **split, **family, opq=True)
    again = build_quantizer(DIM, **product.config)
    assert again.config == product.config
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in product.state_dict().items()
    }
    codec, x = Codec(product), vectors()
    codec.save(tmp_path / "codec")
    loaded = Codec.load(tmp_path / "codec")
    torch.testing.assert_close(encoded(loaded, x)[0], encoded(codec, x)[0])
    assert codec.bits_per_vector == 4 * product.num_steps


def test_chunks_and_precision_change_no_codes() -> None:
    x = vectors(500)
    product = random_product(**SIZES, **SPLITS["unequal"], **QINCO2, opq=True)
    codes = Codec(product, precision="float32").encode(x)
    assert (Codec(product, precision="float32", workspace_bytes=50_000).encode(x) == codes).float().mean() > 0.999
    assert (Codec(product, precision="screened").encode(x) == codes).float().mean() > 0.99
    torch.testing.assert_close(Codec(product).encode(x, beam_size=9), Codec(product).encode(x.double(), beam_size=9))
    assert Codec(product).encode(x[:0]).shape == (0, 7)


def test_fitted_preselectors_belong_to_the_parts() -> None:
    codec, x = Codec(random_product(**SIZES, **SPLITS["unequal"], **QINCO1, opq=True)), vectors(400)
    parts, own = parted(codec, x)
    codec.fit_preselector(x)
    assert codec.quantizer.config["preselector"]
    for part, seen, columns in zip(parts, own, codec.quantizer.part_columns, strict=True):
        part.fit_preselector(seen)
        expected = part.encode(seen, num_candidates=4, beam_size=3)
        found = codec.encode(x, num_candidates=4, beam_size=3)[:, columns]
        assert (found == expected).float().mean() > 0.99


def test_preselectors_of_an_ivf_product_are_fitted_in_the_lists_of_whole_vectors() -> None:
    codec, x = Codec(random_product(**SIZES, **SPLITS["equal"], **QINCO1, num_lists=7)), vectors(400)
    own_lists, _ = codec.encode(x)
    parts, seen = parted(codec, x)
    apart = [codec_.encode(rows)[0] for codec_, rows in zip(parts, seen, strict=True)]
    assert any((lists != own_lists).float().mean() > 0.3 for lists in apart)  # parts by themselves would differ
    codec.fit_preselector(x)
    normalized = codec.quantizer.normalize(x)
    for part, dims, own in zip(codec.quantizer.parts, codec.quantizer.part_slices, parts, strict=True):
        own.quantizer.fit_preselectors(normalized[:, dims].contiguous(), own_lists.long())
        torch.testing.assert_close(own.quantizer.parts[0].steps[0].preselector, part.steps[0].preselector)


def test_decoding_takes_the_rows_of_centroids_that_it_needs() -> None:
    product = random_product(**SIZES, **SPLITS["equal"], **QINCO2, num_lists=5000)
    ids, largest = torch.tensor([3, 4999]), 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) and not out._is_view() else 0)
            return out

    with Sizes():
        starts = product.starts(ids)
    assert largest == len(ids) * DIM
    assert product.coarse_centroids is not None
    torch.testing.assert_close(torch.cat(starts, dim=1), product.coarse_centroids[ids], rtol=0, atol=0)


def test_a_search_that_one_part_cannot_do_is_refused_at_once() -> None:
    quantizer = random_product(**SIZES, **QINCO1, num_parts=2, part_steps=[1, 3], num_steps=4)
    with pytest.raises(ValueError, match=r"^this model has no pre-selector: use num_candidates=0 "):
        quantizer.search_for(num_candidates=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_parts": 0}, "num_parts=0 must be at least 1"),
        ({"order": "sorted"}, "order=sorted is unknown: choose from steps, parts"),
        ({"num_parts": 5}, "dim=12 is no multiple of num_parts=5: say part_dims=[...]"),
        ({"num_steps": 7}, "num_steps=7 is no multiple of num_parts=3: say part_steps=[...]"),
        *(
            ({name: value}, f"{name}={value}: give num_parts=3 numbers from 1 that add up to {total}")
            for name, value, total in (
                ("part_dims", [6, 6], "dim=12"),
                ("part_dims", [6, 5, 2], "dim=12"),
                ("part_dims", [6, 6, 0], "dim=12"),
                ("part_steps", [1, 2, 2], "num_steps=6"),
                ("part_steps", [1, 6, -1], "num_steps=6"),
            )
        ),
        ({"num_candidates": 17}, "num_candidates=17 must be from 0 (all) to codebook_size=16"),
        ({"num_lists": 0}, "num_lists=0 must be at least 1"),
    ],
)
def test_impossible_products_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build_quantizer(DIM, **{**SIZES, **SPLITS["equal"], **QINCO2, **change})


def test_steps_out_of_range_are_refused() -> None:
    codec = Codec(random_product(**SIZES, **SPLITS["equal"], **QINCO2))
    for wanted in (0, 7, -1):
        for call in (lambda n=wanted: codec.encode(vectors(2), num_steps=n), lambda n=wanted: codec.truncated(n)):
            with pytest.raises(ValueError, match=f"^num_steps={wanted}: this model has 6 steps, give 1 to 6$"):
                call()
