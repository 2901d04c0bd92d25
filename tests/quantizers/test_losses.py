"""The training losses of a CPU, whose gradients are written out, against autograd along the reconstructions."""

from itertools import chain

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qinco_lit.quantizers import QINCo, Quantizer
from qinco_lit.quantizers.chunks import TRAINED_ROWS
from tests.device.steps import DIM, FAMILY, random_member

ROWS = 2 * TRAINED_ROWS + 40  # two full ranges and one that is not


def _batch(quantizer: Quantizer) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((ROWS, DIM), generator=generator)
    codes = torch.randint(quantizer.codebook_size, (ROWS, quantizer.num_steps), generator=generator)
    lists = quantizer.num_lists
    return x, codes, None if lists is None else torch.randint(lists, (ROWS,), generator=generator)


def _by_autograd(part: QINCo, x: Tensor, codes: Tensor, start: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    reconstructions = list(part.reconstructions(codes, start))
    before = [start, *reconstructions]
    selected = []
    for index, previous in enumerate(before[:-1]):
        step = part.network_step(index)
        if step is not None and step.preselector is not None and previous is not None:
            chosen = F.embedding(codes[:, index], step.preselector)
            selected.append((previous.detach() + chosen - x).square().mean())
    return [(x_hat - x).square().mean() for x_hat in reconstructions], selected


def _weighted(reconstruction: Tensor, preselector: Tensor) -> Tensor:
    """A sum in which every loss has another weight."""
    one, other = (torch.linspace(1, 2, len(each)) for each in (reconstruction, preselector))
    total: Tensor = reconstruction @ one + preselector @ other
    return total


@pytest.mark.parametrize("name", FAMILY)
def test_losses_and_gradients_are_those_of_autograd(name: str) -> None:
    quantizer = random_member(name)
    parameters = dict(quantizer.named_parameters())
    x, codes, list_ids = _batch(quantizer)
    losses = quantizer(x, codes, list_ids)
    found = torch.autograd.grad(_weighted(losses.reconstruction, losses.preselector), list(parameters.values()))
    own = zip(
        quantizer.parts, quantizer.sliced(x), quantizer.part_codes(codes), quantizer.starts(list_ids), strict=True
    )
    of_parts = zip(*(_by_autograd(*part) for part in own), strict=True)
    reconstruction, preselector = (torch.stack([x.new_zeros(()), *chain(*each)])[1:] for each in of_parts)
    expected = torch.autograd.grad(_weighted(reconstruction, preselector), list(parameters.values()))
    torch.testing.assert_close(losses.reconstruction, reconstruction)
    torch.testing.assert_close(losses.preselector, preselector)
    for parameter, ours, theirs in zip(parameters, found, expected, strict=True):
        assert theirs.abs().max() > 0, parameter
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()), msg=parameter)


@pytest.mark.parametrize("name", ["qinco2", "ivf_pq_qinco2"])
def test_bits_do_not_depend_on_the_number_of_threads(name: str) -> None:
    before, found = torch.get_num_threads(), []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        quantizer = random_member(name)
        losses = quantizer(*_batch(quantizer))
        total = _weighted(losses.reconstruction, losses.preselector)
        found.append([total, *torch.autograd.grad(total, list(quantizer.parameters()))])
    torch.set_num_threads(before)
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            assert torch.equal(ours, theirs)
