"""Laws of the reduced precisions: what may be rounded, and what must come out the same."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from qinco_lit.quantizers import QINCo
from qinco_lit.quantizers.beam import Pairs
from qinco_lit.quantizers.precision import has_fast_bfloat16, num_finalists, precision_for
from qinco_lit.quantizers.step import ResidualStep, evaluate, smallest

Make = Callable[..., QINCo]
CPU = torch.device("cpu")
CONFIG = {"num_steps": 4, "codebook_size": 64, "embed_dim": 24, "hidden_dim": 48, "num_blocks": 2}


@pytest.fixture
def x() -> torch.Tensor:
    return 2 * torch.randn((300, 16), generator=torch.Generator().manual_seed(5))


def _mse(quantizer: QINCo, x: torch.Tensor, codes: torch.Tensor) -> float:
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


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_costs_little_error(make_quantizer: Make, x: torch.Tensor, precision: str) -> None:
    quantizer = make_quantizer(16, **CONFIG, num_candidates=16, beam_size=8)
    exact = _mse(quantizer, x, quantizer.encode(x))
    rough = _mse(quantizer, x, quantizer.encode(x, tables=quantizer.tables(precision_for(precision, CPU))))
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


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_squared_l2_is_as_precise_as_plain_torch(make_quantizer: Make, x: torch.Tensor, precision: str) -> None:
    quantizer = make_quantizer(16, **CONFIG, num_candidates=16, beam_size=8)
    step = quantizer.residual_steps()[1]
    x_hat = quantizer.first_table[torch.arange(300) % 64] + 0.1 * x
    codes = torch.arange(300)[:, None] * 7 % 64
    chosen = precision_for(precision, CPU)
    with torch.no_grad():
        tables = step.tables(chosen)
        context = tables.scoring.weights.hypothesis_terms(x_hat)
        _, ours = evaluate(tables.scoring, context, (x - x_hat)[:, None], Pairs(None, codes))
        plain = _plain_squared_l2(step, codes[:, 0], x_hat, x, chosen.scoring)
        truth = _plain_squared_l2(step.double(), codes[:, 0], x_hat.double(), x.double(), torch.float64)
    assert ours.dtype == torch.float32
    error, plain_error = (ours[:, 0] - truth).square().mean().sqrt(), (plain - truth).square().mean().sqrt()
    assert 0 < error <= 2 * plain_error


def test_auto_is_exact_and_fast_is_not_slower() -> None:
    supported = has_fast_bfloat16(CPU)
    assert precision_for("auto", CPU).name == ("screened" if supported else "float32")
    assert precision_for("fast", CPU).name == ("bfloat16" if supported else "float32")
    with pytest.raises(ValueError, match="precision=int8 is unknown: choose from auto, fast, float32"):
        precision_for("int8", CPU)


@pytest.mark.parametrize(("columns", "number"), [(64, 3), (4096, 100), (4096, 256), (4100, 100), (40, 50), (1, 1)])
def test_smallest_is_a_top_k(columns: int, number: int) -> None:
    scores = torch.randn((7, columns), generator=torch.Generator().manual_seed(columns))
    found = scores.gather(1, smallest(scores, number)).sort().values
    torch.testing.assert_close(found, scores.sort().values[:, :number], rtol=0, atol=0)


_COMPILED = """
import sys
import torch
import torch._inductor.config
# not ATEN_CPU_CAPABILITY=avx2: on a CPU with AVX-512 what torch 2.13 compiles under it computes nonsense
torch._inductor.config.cpp.simdlen = int(sys.argv[1])
from qinco_lit.quantizers.precision import precision_for
from tests.models import random_quantizer
quantizer = random_quantizer(8, num_steps=3, codebook_size=32, hidden_dim=16, num_candidates=8, beam_size=4)
x = torch.randn((50, 8), generator=torch.Generator().manual_seed(1))
exact = precision_for("float32", torch.device("cpu"))
compiled = quantizer.encode(x, tables=quantizer.tables(exact, compiled=True))
counters = torch._dynamo.utils.counters
assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"], counters
print(float((compiled == quantizer.encode(x)).float().mean()))
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("bits", [256, 512])
def test_compiled_search_finds_the_same_codes_with_and_without_avx512(bits: int) -> None:
    """In a process of its own: torch.compile and the shape checks of these tests do not go together."""
    threads = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), **threads}
    command = [sys.executable, "-c", _COMPILED, str(bits)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) >= 0.999
