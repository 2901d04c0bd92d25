"""Laws of the search that hold whatever the weights are."""

from collections.abc import Callable

import faiss
import numpy as np
import pytest
import torch

from qinco_lit.quantizers import QINCo, Quantizer, build_quantizer

Make = Callable[..., Quantizer]
CONFIG = {"num_steps": 4, "codebook_size": 16, "hidden_dim": 12, "num_blocks": 2}


@pytest.fixture
def x() -> torch.Tensor:
    return 2 * torch.randn((300, 8), generator=torch.Generator().manual_seed(5))


def _mse(quantizer: Quantizer, x: torch.Tensor, **search: int) -> float:
    with torch.no_grad():
        *_, x_hat = quantizer.reconstructions(quantizer.encode(x, quantizer.search_for(**search)))
    return float((x - x_hat).square().sum(1).mean())


def test_larger_beam_lowers_the_error(make_quantizer: Make, x: torch.Tensor) -> None:
    quantizer = make_quantizer(8, **CONFIG, num_candidates=8, beam_size=1)
    errors = [_mse(quantizer, x, beam_size=beam) for beam in (1, 4, 16, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_more_candidates_lower_the_error(make_quantizer: Make, x: torch.Tensor) -> None:
    quantizer = make_quantizer(8, **CONFIG, num_candidates=1, beam_size=4)
    errors = [_mse(quantizer, x, num_candidates=number) for number in (1, 4, 16)]
    assert errors == sorted(errors, reverse=True)


def test_all_candidates_equal_a_model_without_preselector(make_quantizer: Make, x: torch.Tensor) -> None:
    quantizer = make_quantizer(8, **CONFIG, num_candidates=4, beam_size=3)
    every = quantizer.encode(x, quantizer.search_for(num_candidates=0))
    torch.testing.assert_close(every, quantizer.encode(x, quantizer.search_for(candidate_budget=4 * 3 * 16)))


def test_larger_budget_lowers_the_error(make_quantizer: Make, x: torch.Tensor) -> None:
    quantizer = make_quantizer(8, **CONFIG, num_candidates=1, beam_size=8)
    errors = [_mse(quantizer, x, candidate_budget=budget) for budget in (8, 16, 32, 128)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_budget_spends_candidates_better(make_quantizer: Make, x: torch.Tensor) -> None:
    """At the same number of network evaluations, the best pairs of the beam beat the same share for each."""
    quantizer = make_quantizer(8, **CONFIG, num_candidates=2, beam_size=8)
    assert _mse(quantizer, x, candidate_budget=16) < _mse(quantizer, x, num_candidates=2)


def test_budget_of_one_hypothesis_is_its_candidates(make_quantizer: Make, x: torch.Tensor) -> None:
    quantizer = make_quantizer(8, **CONFIG, num_candidates=5, beam_size=1)
    torch.testing.assert_close(quantizer.encode(x, quantizer.search_for(candidate_budget=5)), quantizer.encode(x))


def test_model_with_a_budget_searches_by_it(make_quantizer: Make, x: torch.Tensor) -> None:
    plain = make_quantizer(8, **CONFIG, num_candidates=4, beam_size=6)
    budget = make_quantizer(8, **CONFIG, num_candidates=4, beam_size=6, candidate_budget=10)
    torch.testing.assert_close(budget.encode(x), plain.encode(x, plain.search_for(candidate_budget=10)))
    torch.testing.assert_close(budget.encode(x, budget.search_for(num_candidates=4)), plain.encode(x))


def test_codes_do_not_depend_on_chunks(make_quantizer: Make, x: torch.Tensor) -> None:
    quantizer = make_quantizer(8, **CONFIG, num_candidates=8, beam_size=6)
    whole = quantizer.encode(x, workspace_bytes=1 << 30)
    for workspace_bytes in (1, 200_000):
        assert (quantizer.encode(x, workspace_bytes=workspace_bytes) == whole).float().mean() > 0.999


def test_a_workspace_bounds_the_chunk(make_quantizer: Make) -> None:
    quantizer = make_quantizer(8, **CONFIG, num_candidates=8, beam_size=6)
    own, wide = quantizer.default_search, quantizer.search_for(num_candidates=16, beam_size=64)
    small = quantizer.searched_rows(own, 1_000_000)
    assert 1 < small < quantizer.searched_rows(own, 10_000_000)
    assert quantizer.searched_rows(own, 1) == 1
    assert quantizer.searched_rows(wide, 1_000_000) < small


def test_a_large_first_codebook_makes_smaller_chunks(make_quantizer: Make) -> None:
    """The scores of all its codewords are held for every vector of a chunk; those of centroids are not."""
    narrow = {"num_steps": 2, "hidden_dim": 8, "num_blocks": 1, "num_candidates": 1, "beam_size": 1}

    def chunk(**sizes: int) -> int:
        quantizer = make_quantizer(8, **narrow, **sizes)
        return quantizer.searched_rows(quantizer.default_search, None)

    small, large = chunk(codebook_size=16), chunk(codebook_size=65536)
    assert 1 < large < small
    assert large * 4 * 65536 <= 64 << 20
    assert chunk(codebook_size=16, num_lists=1 << 17) == small


def test_untrained_exact_network_returns_the_codeword() -> None:
    from qinco_lit.training.start import init_networks, set_codebooks

    generator = torch.Generator().manual_seed(0)
    codebooks = [torch.randn((16, 8), generator=generator) for _ in range(4)]
    for embed_dim in (None, 5):
        quantizer = build_quantizer(8, **CONFIG, embed_dim=embed_dim, num_candidates=4, beam_size=2)
        init_networks(quantizer.parts[0], "exact", generator)
        set_codebooks(quantizer.parts[0], codebooks, noise=0.0, exact=True, generator=generator)
        codes = torch.randint(16, (20, 4), generator=generator)
        *_, x_hat = quantizer.reconstructions(codes)
        plain = sum(codebook[codes[:, step]] for step, codebook in enumerate(codebooks))
        torch.testing.assert_close(x_hat, plain, rtol=1e-5, atol=1e-5)


def test_preselection_without_a_preselector_is_refused(make_quantizer: Make, x: torch.Tensor) -> None:
    quantizer = make_quantizer(8, **CONFIG, num_candidates=0, beam_size=1)
    for search in ({"num_candidates": 4}, {"candidate_budget": 4}):
        with pytest.raises(ValueError, match="this model has no pre-selector"):
            quantizer.encode(x, quantizer.search_for(**search))


def test_two_kinds_of_candidates_exclude_each_other(make_quantizer: Make) -> None:
    quantizer = make_quantizer(8, **CONFIG, num_candidates=4, beam_size=1)
    with pytest.raises(ValueError, match="exclude each other"):
        quantizer.search_for(num_candidates=4, candidate_budget=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "num_steps=0 must be at least 1"),
        ({"codebook_size": 1}, "codebook_size=1 must be from 2 to 65536"),
        ({"num_candidates": 17}, r"num_candidates=17 must be from 0 \(all\) to codebook_size=16"),
        ({"beam_size": 0}, "beam_size=0 must be at least 1"),
        ({"candidate_budget": 0}, "candidate_budget=0 must be at least 1"),
        ({"candidate_budget": 9, "num_candidates": 0}, "num_candidates=0 with candidate_budget=9 needs a pre-selector"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QINCo(8, **{**CONFIG, "num_candidates": 4, **change})


@pytest.mark.parametrize(
    ("config", "dim", "expected"),
    [
        ({"embed_dim": 128, "hidden_dim": 256, "num_blocks": 2}, 128, 1.64e6),
        ({"embed_dim": 384, "hidden_dim": 384, "num_blocks": 4}, 128, 10.82e6),
        ({"embed_dim": 384, "hidden_dim": 384, "num_blocks": 16}, 128, 35.59e6),
        ({"hidden_dim": 256, "num_blocks": 16, "outer_skip": False, "num_candidates": 0}, 128, 7.83e6),
    ],
)
def test_parameter_counts_are_the_papers(config: dict[str, int], dim: int, expected: float) -> None:
    quantizer = build_quantizer(dim, **config)
    count = sum(parameter.numel() for parameter in quantizer.parameters())
    assert count == pytest.approx(expected, abs=0.005e6)


def test_qinco1_equals_faiss(make_quantizer: Make) -> None:
    dim, codebook_size, num_blocks, num_steps, hidden_dim = 16, 32, 2, 4, 20
    quantizer = make_quantizer(
        dim,
        num_steps=num_steps,
        codebook_size=codebook_size,
        num_blocks=num_blocks,
        hidden_dim=hidden_dim,
        outer_skip=False,
        num_candidates=0,
        beam_size=1,
    )
    oracle = faiss.QINCo(dim, codebook_size, num_blocks, num_steps, hidden_dim)
    oracle.codebook0.from_array(_array(quantizer.parts[0].first_codebook))
    for index, step in enumerate(quantizer.parts[0].residual_steps()):
        theirs = oracle.get_step(index)
        theirs.codebook.from_array(_array(step.codebook))
        theirs.MLPconcat.from_array(_array(step.network.concat.weight), _array(step.network.concat.bias))
        for block, (up, down) in enumerate(zip(step.network.up, step.network.down, strict=True)):
            ffn = theirs.get_residual_block(block)
            ffn.linear1.from_array(_array(up.weight))
            ffn.linear2.from_array(_array(down.weight))
    x = torch.randn((200, dim), generator=torch.Generator().manual_seed(1))
    expected = oracle.encode(faiss.Tensor2D(x.numpy())).numpy()
    codes = quantizer.encode(x)
    assert (codes.numpy() == expected).mean() >= 0.999
    *_, x_hat = quantizer.reconstructions(codes)
    decoded = oracle.decode(faiss.Int32Tensor2D(codes.numpy().astype(np.int32))).numpy()
    np.testing.assert_allclose(x_hat.detach().numpy(), decoded, rtol=1e-4, atol=1e-4)


def _array(weight: torch.Tensor) -> np.ndarray:
    return weight.detach().numpy().copy()
