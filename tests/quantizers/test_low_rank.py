"""QINCo-LR: the first layer as a product of two factors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qinco_lit.codec import Codec
from qinco_lit.quantizers import Quantizer, build_quantizer
from tests import reference
from tests.models import random_quantizer

Make = Callable[..., Quantizer]
QINCO1 = {"outer_skip": False, "num_candidates": 0, "beam_size": 1}
QINCO2 = {"embed_dim": 6, "num_candidates": 4, "beam_size": 5}
SIZES = {"num_steps": 4, "codebook_size": 16, "hidden_dim": 10, "num_blocks": 2}
FAMILIES = pytest.mark.parametrize("family", [QINCO1, QINCO2, {**QINCO2, "num_lists": 7}], ids=["1", "2", "ivf"])


@pytest.fixture
def x() -> torch.Tensor:
    return 2 * torch.randn((300, 8), generator=torch.Generator().manual_seed(5))


def _full(low_rank: Quantizer) -> Quantizer:
    """The same model with W = B A written out and b = 0."""
    full = build_quantizer(low_rank.dim, **{**low_rank.config, "concat_rank": None})
    state = low_rank.state_dict()
    for index in range(len(low_rank.parts[0].steps)):
        name = f"parts.0.steps.{index}.network.concat"
        factors = state.pop(f"{name}_out.weight"), state.pop(f"{name}_in.weight")
        state |= {f"{name}.weight": factors[0] @ factors[1], f"{name}.bias": torch.zeros(low_rank.parts[0].embed_dim)}
    full.load_state_dict(state)
    return full


def _low_rank(make_quantizer: Make, family: dict[str, object], rank: int = 3) -> Quantizer:
    quantizer = make_quantizer(8, **SIZES, **family, concat_rank=rank)
    if quantizer.coarse_centroids is not None:
        quantizer.coarse_centroids.copy_(torch.randn((7, 8), generator=torch.Generator().manual_seed(2)))
    return quantizer


@FAMILIES
def test_low_rank_equals_the_product_written_out(make_quantizer: Make, x: torch.Tensor, family: dict) -> None:
    low_rank = _low_rank(make_quantizer, family)
    full = _full(low_rank)
    lists = None if low_rank.num_lists is None else low_rank.assign_lists(x)
    codes = low_rank.encode(x, list_ids=lists)
    torch.testing.assert_close(codes, full.encode(x, list_ids=lists))
    for ours, theirs in zip(low_rank.reconstructions(codes, lists), full.reconstructions(codes, lists), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@FAMILIES
def test_gradients_of_the_factors_follow_the_chain_rule(make_quantizer: Make, x: torch.Tensor, family: dict) -> None:
    low_rank = _low_rank(make_quantizer, family)
    full = _full(low_rank)
    lists = None if low_rank.num_lists is None else low_rank.assign_lists(x)
    codes = low_rank.encode(x, list_ids=lists)
    for quantizer in (low_rank, full):
        losses = quantizer.losses(x, codes, lists)
        (losses.reconstruction.sum() + losses.preselector.sum()).backward()
    for ours, theirs in zip(low_rank.parts[0].residual_steps(), full.parts[0].residual_steps(), strict=True):
        outer, inner, whole = ours.network.concat_out, ours.network.concat_in, theirs.network.concat
        assert outer is not None
        assert inner is not None
        assert whole is not None
        torch.testing.assert_close(outer.weight.grad, whole.weight.grad @ inner.weight.T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(inner.weight.grad, outer.weight.T @ whole.weight.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.codebook.grad, theirs.codebook.grad, rtol=1e-4, atol=1e-5)


def test_a_rank_of_embed_dim_expresses_every_layer_without_bias(make_quantizer: Make, x: torch.Tensor) -> None:
    full = make_quantizer(8, **SIZES, **QINCO2)
    low_rank = build_quantizer(8, **{**full.config, "concat_rank": 6})
    state = full.state_dict()
    for index, step in enumerate(full.parts[0].residual_steps()):
        assert step.network.concat is not None
        step.network.concat.bias.data.zero_()
        u, s, v = torch.linalg.svd(step.network.concat.weight.detach(), full_matrices=False)
        name = f"parts.0.steps.{index}.network.concat"
        del state[f"{name}.weight"], state[f"{name}.bias"]
        state |= {f"{name}_out.weight": u * s, f"{name}_in.weight": v}
    low_rank.load_state_dict(state)
    torch.testing.assert_close(low_rank.encode(x), full.encode(x))


@settings(max_examples=30)
@given(
    sizes=st.fixed_dictionaries(
        {
            "dim": st.integers(1, 9),
            "num_steps": st.integers(1, 4),
            "codebook_size": st.integers(2, 12),
            "embed_dim": st.one_of(st.none(), st.integers(1, 9)),
            "hidden_dim": st.integers(1, 8),
            "num_blocks": st.integers(1, 3),
            "concat_rank": st.integers(1, 12),
            "outer_skip": st.booleans(),
            "beam_size": st.integers(1, 9),
        }
    ),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_search_equals_the_slow_loop(sizes: dict[str, int], share: float, seed: int) -> None:
    num_candidates = int(share * sizes["codebook_size"])
    quantizer = random_quantizer(seed=seed, num_candidates=num_candidates, **sizes)
    x = 2 * torch.randn((5, quantizer.dim), generator=torch.Generator().manual_seed(seed))
    for row, found in zip(x.double().numpy(), quantizer.encode(x).tolist(), strict=True):
        expected = reference.encode(quantizer.parts[0], row, num_candidates, sizes["beam_size"])
        error = [((row - reference.decode(quantizer.parts[0], codes)) ** 2).sum() for codes in (found, expected)]
        assert found == expected or np.isclose(*error, rtol=1e-4)  # a tie in float32 may choose differently


@pytest.mark.parametrize("precision", ["screened", "bfloat16"])
def test_precisions_score_with_the_product(make_quantizer: Make, x: torch.Tensor, precision: str) -> None:
    """Factors are multiplied in float32, then rounded as one matrix: what any precision does to the full model."""
    low_rank = _low_rank(make_quantizer, QINCO2)
    ours, theirs = (Codec(model, precision=precision).encode(x) for model in (low_rank, _full(low_rank)))
    assert (ours == theirs).float().mean() >= 0.999


def test_parameter_counts_are_the_papers() -> None:
    """QINCo-LR on Contriever, 8 bytes, L=4: 16.7M parameters, against 20.85M."""
    sizes = {"num_steps": 8, "codebook_size": 256, "hidden_dim": 256, "num_blocks": 4, **QINCO1}
    counts = []
    for rank in (256, None):
        with torch.device("meta"):
            quantizer = build_quantizer(768, **sizes, concat_rank=rank)
        counts.append(sum(parameter.numel() for parameter in quantizer.parameters()) / 1e6)
    assert counts == [pytest.approx(16.7, abs=0.05), pytest.approx(20.85, abs=0.005)]


def test_the_rank_is_kept_with_the_codec(make_quantizer: Make, x: torch.Tensor, tmp_path: Path) -> None:
    codec = Codec(_low_rank(make_quantizer, QINCO2))
    codec.save(tmp_path / "codec")
    loaded = Codec.load(tmp_path / "codec")
    assert loaded.quantizer.config == codec.quantizer.config
    assert loaded.quantizer.config["concat_rank"] == 3
    torch.testing.assert_close(loaded.encode(x), codec.encode(x))


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^concat_rank=0 must be at least 1$"):
        build_quantizer(8, **SIZES, concat_rank=0)
