"""QINCo2's search written plainly: what the encoding engine is measured against.

For every hypothesis and each of its A candidates the whole network runs on [codeword; x_hat], in float32 torch,
batched; then squared L2 and top-k. Nothing is shared between candidates. Written in good faith: no needless copies.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from qinco_lit.quantizers import QINCo
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
    out = s if net.out_proj is None else net.out_proj(s)
    return out + codewords if net.outer_skip else out


@torch.inference_mode()
def encode(
    quantizer: QINCo, x: Float[Tensor, "rows dim"], *, num_candidates: int, beam_size: int, batch_size: int
) -> Int[Tensor, "rows steps"]:
    """Codes of normalised vectors, `batch_size` vectors at a time."""
    return torch.cat([_encode(quantizer, part, num_candidates, beam_size) for part in x.split(batch_size)])


def _encode(quantizer: QINCo, x: Tensor, num_candidates: int, beam_size: int) -> Tensor:
    rows = torch.arange(len(x))[:, None]
    codes = torch.cdist(x, quantizer.first_codebook).topk(beam_size, largest=False).indices
    x_hat, codes = quantizer.first_codebook[codes], codes[..., None]
    steps = quantizer.residual_steps()
    for index, step in enumerate(steps):
        batch, width, dim = x_hat.shape
        assert step.preselector is not None
        distances = torch.cdist(x[:, None] - x_hat, step.preselector[None].expand(batch, -1, -1))
        candidates = distances.topk(num_candidates, largest=False).indices
        codewords = step.codebook[candidates]
        context = x_hat[:, :, None].expand(-1, -1, num_candidates, -1)
        added = network(step, codewords.reshape(-1, dim), context.reshape(-1, dim))
        new = (context + added.view(context.shape)).view(batch, width * num_candidates, dim)
        keep = 1 if index == len(steps) - 1 else beam_size
        best = (x[:, None] - new).square().sum(-1).topk(keep, largest=False).indices
        x_hat = new[rows, best]
        chosen = candidates.view(batch, -1)[rows, best]
        codes = torch.cat([codes[rows, best // num_candidates], chosen[..., None]], dim=-1)
    return codes[:, 0]
