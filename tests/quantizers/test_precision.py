"""Laws of the reduced precisions: what may be rounded, and what must come out the same."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.beam import Pairs
from qinco_lit.quantizers.precision import FLOAT32, has_fast_bfloat16, num_finalists, precision_for, recorded_precision
from qinco_lit.quantizers.step import ResidualStep, evaluate, smallest

Make = Callable[..., Quantizer]
CPU = torch.device("cpu")
CONFIG = {"num_steps": 4, "codebook_size": 64, "embed_dim": 24, "hidden_dim": 48, "num_blocks": 2}


@pytest.fixture
def x() -> torch.Tensor:
    return 2 * torch.randn((300, 16), generator=torch.Generator().manual_seed(5))


def _mse(quantizer: Quantizer, x: torch.Tensor, codes: torch.Tensor) -> float:
    with torch.no_grad():
        *_, x_hat = quantizer.reconstructions(codes)
    return float((x - x_hat).square().sum(1).mean())


@pytest.mark.parametrize("search", [{"num_candidates": 16}, {"candidate_budget": 128}, {"num_candidates": 0}])
def test_screening_finds_the_codes_of_float32(make_quantizer: Make, x: torch.Tensor, search: dict[str, int]) -> None:
    quantizer = make_quantizer(16, **CONFIG, num_candidates=16, beam_size=16)
    asked = quantizer.search_for(**search)
    assert 2 * num_finalists(16) < asked.pairs_per_vector, "nothing would be screened"
    exact = quantizer.encode(x, asked)
    screened = quantizer.encode(x, asked, tables=quantizer.tables(precision_for("screened", CPU)))
    assert (screened == exact).float().mean() >= 0.999


def test_bfloat16_costs_little_error(make_quantizer: Make, x: torch.Tensor) -> None:
    quantizer = make_quantizer(16, **CONFIG, num_candidates=16, beam_size=8)
    exact = _mse(quantizer, x, quantizer.encode(x))
    rough = _mse(quantizer, x, quantizer.encode(x, tables=quantizer.tables(precision_for("bfloat16", CPU))))
    assert rough == pytest.approx(exact, rel=0.02)
    assert rough != exact, "nothing was rounded"


def _plain_squared_l2(
    step: ResidualStep, codes: torch.Tensor, x_hat: torch.Tensor, target: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Squared L2 as plain torch gives it at a precision: the network as it is written, on [z; x_hat]."""
    net = step.network

    def linear(x: torch.Tensor, layer: torch.nn.Module, *, bias: bool = False) -> torch.Tensor:
        assert isinstance(layer, torch.nn.Linear)
        return F.linear(x, layer.weight.to(dtype), layer.bias.to(dtype) if bias else None)

    c, context = step.codebook[codes].to(dtype), x_hat.to(dtype)
    z = linear(c, net.in_proj) if net.in_proj is not None else c
    s = z + linear(torch.cat([z, context], dim=1), net.concat, bias=True)
    for up, down in zip(net.up, net.down, strict=True):
        s = s + linear(F.relu(linear(s, up)), down)
    added = (linear(s, net.out_proj) if net.out_proj is not None else s) + c
    return (target - x_hat.to(target.dtype) - added.to(target.dtype)).square().sum(1)


def test_squared_l2_is_as_precise_as_plain_torch(make_quantizer: Make, x: torch.Tensor) -> None:
    quantizer = make_quantizer(16, **CONFIG, num_candidates=16, beam_size=8)
    step = quantizer.parts[0].residual_steps()[1]
    x_hat = quantizer.parts[0].first_codebook[torch.arange(300) % 64] + 0.1 * x
    codes = torch.arange(300)[:, None] * 7 % 64
    chosen = precision_for("bfloat16", CPU)
    with torch.no_grad():
        tables = step.tables(chosen)
        context = tables.scoring.weights.hypothesis_terms(x_hat)
        _, ours = evaluate(tables.scoring, context, (x - x_hat)[:, None], Pairs(None, codes))
        plain = _plain_squared_l2(step, codes[:, 0], x_hat, x, chosen.scoring)
        truth = _plain_squared_l2(step.double(), codes[:, 0], x_hat.double(), x.double(), torch.float64)
    assert ours.dtype == torch.float32
    error, plain_error = (ours[:, 0] - truth).square().mean().sqrt(), (plain - truth).square().mean().sqrt()
    assert 0 < error <= 2 * plain_error


@pytest.mark.parametrize("parents", [None, torch.tensor([[2, 0, 2, 1, 1, 0], [0, 0, 1, 2, 2, 2]])])
def test_bags_of_rows_are_sums_of_rows_to_the_bit(
    make_quantizer: Make, x: torch.Tensor, parents: torch.Tensor | None
) -> None:
    quantizer = make_quantizer(16, **CONFIG, num_candidates=16, beam_size=8)
    step = quantizer.parts[0].residual_steps()[1]
    x_hat, target, codes = x[:6], x[6:8, None], torch.tensor([[5, 63, 0, 5, 7, 1], [9, 5, 62, 0, 1, 2]])
    with torch.no_grad():
        exact = step.tables(FLOAT32).exact
        residual, pairs = target - x_hat.view(2, 3, 16), Pairs(parents, codes)
        apart = evaluate(exact, exact.weights.hypothesis_terms(x_hat), residual, pairs)
        bags = evaluate(exact, exact.context(x_hat), residual, pairs)
    for one, other in zip(apart, bags, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_auto_is_exact_and_fast_is_not_slower() -> None:
    supported = has_fast_bfloat16(CPU)
    assert precision_for("auto", CPU).name == ("screened" if supported else "float32")
    assert precision_for("fast", CPU).name == ("bfloat16" if supported else "float32")
    with pytest.raises(ValueError, match="precision=int8 is unknown: choose from auto, fast, float32"):
        precision_for("int8", CPU)
    with pytest.raises(ValueError, match=r"^precision=float16 is no more: choose bfloat16, which is as fast and "):
        precision_for("float16", CPU)
    assert [recorded_precision(name) for name in ("float16", "bfloat16", "screened")] == [
        "bfloat16",
        "bfloat16",
        "screened",
    ]


@pytest.mark.parametrize(("columns", "number"), [(64, 3), (4096, 100), (4096, 256), (4100, 100), (40, 50), (1, 1)])
def test_smallest_is_a_top_k(columns: int, number: int) -> None:
    scores = torch.randn((7, columns), generator=torch.Generator().manual_seed(columns))
    found = scores.gather(1, smallest(scores, number)).sort().values
    torch.testing.assert_close(found, scores.sort().values[:, :number], rtol=0, atol=0)
