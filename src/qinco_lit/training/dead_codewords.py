"""Codewords that no vector chooses: counted, and given work."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from qinco_lit.quantizers import QINCo
from qinco_lit.quantizers.kmeans import split_pairs


def count_codes(codes: Int[Tensor, "batch steps"], codebook_size: int) -> Int[Tensor, "steps codebook"]:
    """How often each codeword of each step was chosen."""
    # not `bincount`, which reads the largest code first: it would wait for a GPU
    counts = codes.new_zeros((codes.shape[1], codebook_size))
    return counts.scatter_add_(1, codes.T, torch.ones_like(codes.T))


@torch.no_grad()
def split_dead(
    quantizer: QINCo,
    usage: Int[Tensor, "steps codebook"],
    optimizer: Optimizer,
    generator: torch.Generator,
    noise: float = 1e-2,
) -> int:
    """Turn every unused codeword into a slightly moved copy of a much used one (codebook and pre-selector).

    Each use is shared: the most used codeword counts half as much after every copy, and so does the copy. The
    optimizer's moments are copied too: the copy goes on where its parent is. Returns how many were dead.

    Args:
        usage: how often each codeword was chosen, summed over processes.
        noise: standard deviation of the displacement, in standard deviations of the table.
    """
    dead = 0
    for index, counts in enumerate(usage):
        pairs = split_pairs(counts)
        dead += int((counts == 0).sum())
        if not pairs:
            continue
        used: dict[int, int] = {}  # of a child that is to be split further: the codeword that its vectors choose now
        for child, parent in pairs:
            used[child] = used.get(parent, parent)
        children = torch.tensor(list(used), device=counts.device)
        parents = torch.tensor(list(used.values()), device=counts.device)
        for table in _tables(quantizer, index):
            draws = torch.randn((len(pairs), table.shape[1]), generator=generator).to(table.device)
            scale = noise * table.std()
            table[children] = table[parents] + scale * draws
            for moment in optimizer.state.get(table, {}).values():
                if isinstance(moment, Tensor) and moment.shape == table.shape:
                    moment[children] = moment[parents]
    return dead


@torch.no_grad()
def redraw_dead(
    quantizer: QINCo,
    usage: Int[Tensor, "steps codebook"],
    target_mean: Float[Tensor, "steps dim"],
    target_std: Float[Tensor, "steps dim"],
    generator: torch.Generator,
    noise: float = 1e-2,
) -> int:
    """Redraw every unused codeword as uniform noise with the mean and std of its step's targets (QINCo2).

    Codebook and pre-selector get the same draw, the pre-selector plus a little noise. Returns how many were dead, which
    the draws depend on: it waits for a GPU, at the start of an epoch only.
    """
    dead = 0
    for index, counts in enumerate(usage):
        unused = counts == 0
        number = int(unused.sum())
        dead += number
        draw = torch.rand((number, quantizer.dim), generator=generator).to(target_mean.device)
        fresh = target_mean[index] + (draw - 0.5) * 12**0.5 * target_std[index]
        for which, table in enumerate(_tables(quantizer, index)):
            extra = torch.randn(fresh.shape, generator=generator).to(fresh.device) if which else 0.0
            table[unused] = fresh + noise * target_std[index] * extra
    return dead


def _tables(quantizer: QINCo, index: int) -> list[Tensor]:
    step = quantizer.network_step(index)
    if step is None:
        assert quantizer.first_codebook is not None
        return [quantizer.first_codebook]
    return [step.codebook] if step.preselector is None else [step.codebook, step.preselector]


@torch.no_grad()
def target_statistics(
    quantizer: QINCo,
    x: Float[Tensor, "batch dim"],
    codes: Int[Tensor, "batch steps"],
    start: Float[Tensor, "batch dim"] | None,
) -> tuple[Float[Tensor, "steps dim"], Float[Tensor, "steps dim"]]:
    """Mean and standard deviation per dimension of every step's target x - x_hat_{m-1}, normalised space.

    The first step aims at what the start leaves of x.
    """
    previous = [torch.zeros_like(x) if start is None else start, *quantizer.reconstructions(codes[:, :-1], start)]
    targets = [x - x_hat for x_hat in previous]
    return torch.stack([t.mean(0) for t in targets]), torch.stack([t.std(0, correction=0) for t in targets])
