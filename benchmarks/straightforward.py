"""QINCo's search, decoder and losses written plainly: what the engine is measured against.

For every hypothesis and each of its A candidates the whole network runs on [codeword; x_hat], in float32 torch,
batched; then squared L2 and top-k. Nothing is shared between candidates. Written in good faith: no needless copies, and
every caller tunes the batch size.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from qinco_lit.quantizers import Quantizer
from qinco_lit.quantizers.step import ResidualStep


def network(
    step: ResidualStep, codewords: Float[Tensor, "rows dim"], x_hat: Float[Tensor, "rows dim"]
) -> Float[Tensor, "rows dim"]:
    """f_m(c, x_hat), one row per candidate."""
    net = step.network
    z = codewords if net.in_proj is None else net.in_proj(codewords)
    s = z + net.concat(torch.cat([z, x_hat], dim=-1))
    for up, down in zip(net.up, net.down, strict=True):
        s = s + down(F.relu(up(s)))
    out: Tensor = s if net.out_proj is None else net.out_proj(s)
    return out + codewords if net.outer_skip else out


@torch.no_grad()
def encode(
    quantizer: Quantizer, x: Float[Tensor, "rows dim"], *, num_candidates: int, beam_size: int, batch_size: int
) -> Int[Tensor, "rows steps"]:
    """Codes of normalised vectors, `batch_size` vectors at a time; `num_candidates=0` tries all codewords."""
    return torch.cat([_encode(quantizer, part, num_candidates, beam_size) for part in torch.split(x, batch_size)])


def _encode(quantizer: Quantizer, x: Tensor, num_candidates: int, beam_size: int) -> Tensor:
    rows = torch.arange(len(x), device=x.device)[:, None]
    codes = torch.cdist(x, quantizer.parts[0].first_codebook).topk(beam_size, largest=False).indices
    x_hat, codes = quantizer.parts[0].first_codebook[codes], codes[..., None]
    steps = quantizer.parts[0].residual_steps()
    for index, step in enumerate(steps):
        candidates = _candidates(step, x[:, None] - x_hat, num_candidates)
        codewords = step.codebook[candidates]
        context = x_hat[:, :, None].expand_as(codewords)
        added = network(step, codewords.flatten(0, 2), context.flatten(0, 2))
        new = (context + added.view_as(codewords)).flatten(1, 2)
        keep = 1 if index == len(steps) - 1 else beam_size
        best = (x[:, None] - new).square().sum(-1).topk(keep, largest=False).indices
        x_hat = new[rows, best]
        chosen = candidates.flatten(1)[rows, best]
        codes = torch.cat([codes[rows, best // candidates.shape[2]], chosen[..., None]], dim=-1)
    return codes[:, 0]


def _candidates(step: ResidualStep, residual: Tensor, num_candidates: int) -> Tensor:
    batch, width, dim = residual.shape
    if num_candidates == 0:
        return torch.arange(len(step.codebook), device=residual.device).expand(batch, width, -1)
    assert step.preselector is not None
    distances = torch.cdist(residual.view(-1, dim), step.preselector)
    return distances.topk(num_candidates, largest=False).indices.view(batch, width, -1)


def advance(quantizer: Quantizer, index: int, codes: Int[Tensor, " rows"], x_hat: Tensor | None) -> Tensor:
    """Normalised reconstruction after step `index` from the one before; differentiable."""
    step = quantizer.parts[0].network_step(index)
    if step is None or x_hat is None:
        return F.embedding(codes, quantizer.parts[0].first_codebook)
    return x_hat + network(step, F.embedding(codes, step.codebook), x_hat)


@torch.no_grad()
def decode(
    quantizer: Quantizer,
    codes: Int[Tensor, "rows steps"],
    *,
    batch_size: int,
    list_ids: Int[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows dim"]:
    """Reconstructions in raw space, `batch_size` rows of codes (any integers) at a time."""
    parts = []
    for start in range(0, len(codes), batch_size):
        rows = slice(start, start + batch_size)
        columns = codes[rows].long()
        x_hat = None if list_ids is None else quantizer.centroids_of(list_ids[rows])
        for index in range(columns.shape[1]):
            x_hat = advance(quantizer, index, columns[:, index], x_hat)
        assert x_hat is not None
        parts.append(quantizer.denormalize(x_hat))
    return torch.cat(parts)


def loss(quantizer: Quantizer, x: Float[Tensor, "rows dim"], codes: Int[Tensor, "rows steps"]) -> Float[Tensor, ""]:
    """The training loss along chosen codes, summed over steps: reconstructions, then pre-selectors."""
    total = x.new_zeros(())
    x_hat: Tensor | None = None
    for index in range(codes.shape[1]):
        previous, x_hat = x_hat, advance(quantizer, index, codes[:, index], x_hat)
        total = total + (x_hat - x).square().mean()
        table = None if previous is None else quantizer.parts[0].residual_steps()[index - 1].preselector
        if previous is not None and table is not None:
            target = x - previous.detach()
            total = total + (F.embedding(codes[:, index], table) - target).square().mean()
    return total
