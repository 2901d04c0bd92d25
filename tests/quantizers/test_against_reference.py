"""The fast search and decoding against slow float64 loops, on random sizes."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qinco_lit.quantizers import Quantizer
from tests import reference
from tests.models import random_quantizer

SIZES = st.fixed_dictionaries(
    {
        "dim": st.integers(1, 9),
        "num_steps": st.integers(1, 4),
        "codebook_size": st.integers(2, 12),
        "embed_dim": st.one_of(st.none(), st.integers(1, 9)),
        "hidden_dim": st.integers(1, 10),
        "num_blocks": st.integers(1, 3),
        "outer_skip": st.booleans(),
        "beam_size": st.integers(1, 20),
    }
)


def _vectors(quantizer: Quantizer, seed: int, rows: int = 5) -> torch.Tensor:
    return 2 * torch.randn((rows, quantizer.dim), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60)
@given(sizes=SIZES, share=st.floats(0, 1), budget=st.one_of(st.none(), st.integers(1, 60)), seed=st.integers(0, 1000))
def test_search_equals_the_slow_loop(sizes: dict[str, int], share: float, budget: int | None, seed: int) -> None:
    num_candidates = max(int(share * sizes["codebook_size"]), int(budget is not None))
    quantizer = random_quantizer(seed=seed, num_candidates=num_candidates, **sizes)
    x = _vectors(quantizer, seed)
    codes = quantizer.encode(x, quantizer.search_for(candidate_budget=budget))
    for row, found in zip(x.double().numpy(), codes.tolist(), strict=True):
        expected = reference.encode(quantizer.parts[0], row, num_candidates, sizes["beam_size"], budget)
        # a tie in float32 may choose differently: then the error must be the same
        error = [((row - reference.decode(quantizer.parts[0], c)) ** 2).sum() for c in (found, expected)]
        assert found == expected or np.isclose(*error, rtol=1e-4)


@settings(max_examples=30)
@given(sizes=SIZES, seed=st.integers(0, 1000))
def test_every_prefix_decodes_as_the_slow_loop(sizes: dict[str, int], seed: int) -> None:
    quantizer = random_quantizer(seed=seed, num_candidates=0, **sizes)
    codes = torch.randint(
        sizes["codebook_size"], (4, sizes["num_steps"]), generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        for length, x_hat in enumerate(quantizer.reconstructions(codes), start=1):
            expected = [reference.decode(quantizer.parts[0], row[:length]) for row in codes.tolist()]
            np.testing.assert_allclose(x_hat.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_losses_are_means_over_batch_and_dimensions() -> None:
    quantizer = random_quantizer(
        6, num_steps=3, codebook_size=5, hidden_dim=7, num_blocks=1, num_candidates=3, beam_size=2
    )
    x = _vectors(quantizer, 3)
    codes = quantizer.encode(x)
    with torch.no_grad():
        losses = quantizer.losses(x, codes)
    rows = x.double().numpy()
    for step in range(3):
        x_hat = [reference.decode(quantizer.parts[0], row[: step + 1]) for row in codes.tolist()]
        assert np.isclose(float(losses.reconstruction[step]), ((rows - x_hat) ** 2).mean(), rtol=1e-5)
    for step in range(1, 3):
        previous = np.array([reference.decode(quantizer.parts[0], row[:step]) for row in codes.tolist()])
        table = quantizer.parts[0].residual_steps()[step - 1].preselector
        assert table is not None
        chosen = table.detach().double().numpy()[codes[:, step]]
        assert np.isclose(float(losses.preselector[step - 1]), ((previous + chosen - rows) ** 2).mean(), rtol=1e-5)
