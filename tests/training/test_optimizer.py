"""Muon for matrices of networks, AdamW for all else."""

from typing import Any

import pytest
import torch
from torch import Tensor

from qinco_lit.quantizers import Quantizer
from qinco_lit.training.optimizer import MuonAdamW, matrices, optimizer_of, orthogonal
from qinco_lit.training.recipe import Recipe
from tests.models import random_quantizer
from tests.training.recipes import RECIPE

LR, MUON_LR, DECAY = 1e-3, 0.02, 0.1


def _quantizer() -> Quantizer:
    return random_quantizer(
        8, num_steps=3, codebook_size=16, embed_dim=12, hidden_dim=24, num_candidates=4, beam_size=4
    )


def _with_gradients(quantizer: Quantizer, seed: int = 0) -> Quantizer:
    generator = torch.Generator().manual_seed(seed)
    for parameter in quantizer.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return quantizer


def _optimizer(quantizer: Quantizer) -> MuonAdamW:
    return MuonAdamW(quantizer.requires_grad_(True), lr=LR, weight_decay=DECAY, factor=MUON_LR / LR)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_directions_have_the_singular_vectors_of_the_matrix_and_values_near_one(shape: tuple[int, int]) -> None:
    x = torch.randn((2, *shape), generator=torch.Generator().manual_seed(1))
    for given, found in zip(x, orthogonal(list(x)), strict=True):
        left, _, right = torch.linalg.svd(given, full_matrices=False)
        core = left.T @ found @ right.T
        torch.testing.assert_close(core, torch.diag(core.diagonal()), rtol=0, atol=1e-3)
        assert float(core.diagonal().min()) > 0.2
        assert float(core.diagonal().max()) < 1.3


def test_matrices_of_networks_are_all_weights_of_their_linear_layers() -> None:
    quantizer = _quantizer()
    names = {name for name, value in quantizer.named_parameters() if any(value is each for each in matrices(quantizer))}
    assert names == {name for name, value in quantizer.named_parameters() if ".network." in name and value.ndim == 2}
    assert names


def test_what_is_not_a_matrix_is_trained_as_by_adamw() -> None:
    ours, theirs = _quantizer(), _quantizer()
    own, known = (
        _optimizer(ours),
        torch.optim.AdamW(theirs.requires_grad_(True).parameters(), lr=LR, weight_decay=DECAY),
    )
    for seed in range(3):
        for quantizer, optimizer in ((ours, own), (theirs, known)):
            _with_gradients(quantizer, seed)
            optimizer.step()
    apart = {id(matrix) for matrix in matrices(ours)}
    for (name, value), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(value, other) == (id(value) not in apart), name


def test_a_matrix_moves_by_its_rate_whatever_the_size_of_its_gradient() -> None:
    for size in (1e-6, 1.0, 1e4):
        quantizer = _quantizer()
        before = [matrix.detach().clone() for matrix in matrices(quantizer)]
        optimizer = _optimizer(_with_gradients(quantizer))
        for parameter in quantizer.parameters():
            assert parameter.grad is not None
            parameter.grad *= size
        optimizer.step()
        for old, new in zip(before, matrices(quantizer), strict=True):
            stretch = max(1.0, old.shape[0] / old.shape[1]) ** 0.5
            assert 0.5 < float(torch.linalg.matrix_norm(new.detach() - old, 2)) / (MUON_LR * stretch) < 1.5


def test_it_goes_on_from_its_state_and_keeps_gradients() -> None:
    whole, resumed = _quantizer(), _quantizer()
    first, second = _optimizer(_with_gradients(whole)), _optimizer(_with_gradients(resumed))
    first.step()
    second.step()
    assert all(parameter.grad is not None for parameter in whole.parameters())
    again = _optimizer(resumed)
    again.load_state_dict(second.state_dict())
    first.param_groups[-1]["lr"] = again.param_groups[-1]["lr"] = MUON_LR / 2
    for quantizer, optimizer in ((whole, first), (resumed, again)):
        _with_gradients(quantizer, 1)
        optimizer.step()
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("absent", ["all", "one matrix"])
def test_what_has_no_gradient_stays(absent: str) -> None:
    quantizer = _with_gradients(_quantizer())
    left: list[Tensor] = list(quantizer.parameters()) if absent == "all" else matrices(quantizer)[:1]
    for parameter in left:
        parameter.grad = None
    before = [parameter.detach().clone() for parameter in left]
    _optimizer(quantizer).step()
    assert all(torch.equal(old, new) for old, new in zip(before, left, strict=True))


def test_threads_change_nothing() -> None:
    found: list[dict[str, Any]] = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            quantizer = _with_gradients(_quantizer())
            _optimizer(quantizer).step()
            found.append(quantizer.state_dict())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize(
    ("given", "dim", "factor"), [(None, 256, 4.0), (None, 257, 2.0), (3.0, 128, 3.0), (3.0, 384, 3.0)]
)
def test_matrices_of_long_vectors_are_trained_at_half_the_rate(given: float | None, dim: int, factor: float) -> None:
    recipe = Recipe(**RECIPE | {"optimizer": "muon", "muon_factor": given})
    groups = optimizer_of(random_quantizer(dim, num_steps=2, codebook_size=16), recipe, dim=dim).param_groups
    assert [group["lr"] / recipe.lr for group in groups if "factor" in group] == pytest.approx([factor])
