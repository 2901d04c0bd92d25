"""The codeword network f_m(c, x_hat) of one residual step, factored so that candidates are cheap."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Terms(NamedTuple):
    """What one input, a codeword or a hypothesis, adds to the residual stream and to the first hidden layer."""

    stream: Float[Tensor, "*rows embed"]
    hidden: Float[Tensor, "*rows hidden"]

    def add(self, other: "Terms") -> "Terms":
        """Both inputs together; the rows broadcast against each other."""
        return Terms(self.stream + other.stream, self.hidden + other.hidden)


class CodewordNetwork(nn.Module):
    """Adapts a codeword to the reconstruction so far (QINCo1 eq. 5-7, QINCo2 eq. 5-8).

        z = P_in c;   s = z + W [z; x_hat] + b;   s = s + D_l relu(U_l s) for l = 1..L;   f = P_out s (+ c, QINCo2)

    Everything up to the first ReLU is linear, so `s` and `U_1 s` split into a term of the codeword and a term of the
    hypothesis. A step computes the first once for its whole codebook and the second once per hypothesis; a pair then
    costs an addition, D_1, the later blocks and P_out.

    Args:
        dim: dimension of the vectors (D).
        embed_dim: width of the residual stream (d_e); equal to `dim`, the two projections are identities.
        hidden_dim: hidden width of a block (d_h).
        num_blocks: residual blocks (L), at least 1.
        outer_skip: add the codeword itself to the output (QINCo2).
    """

    def __init__(self, dim: int, *, embed_dim: int, hidden_dim: int, num_blocks: int, outer_skip: bool) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.outer_skip = outer_skip
        self.in_proj = None if embed_dim == dim else nn.Linear(dim, embed_dim, bias=False)
        self.out_proj = None if embed_dim == dim else nn.Linear(embed_dim, dim, bias=False)
        self.concat = nn.Linear(embed_dim + dim, embed_dim)
        self.up = nn.ModuleList(nn.Linear(embed_dim, hidden_dim, bias=False) for _ in range(num_blocks))
        self.down = nn.ModuleList(nn.Linear(hidden_dim, embed_dim, bias=False) for _ in range(num_blocks))

    def codeword_terms(self, codewords: Float[Tensor, "rows dim"]) -> Terms:
        """Z + W_z z + b and its first up-projection, one row per codeword."""
        z = codewords if self.in_proj is None else self.in_proj(codewords)
        stream = z + F.linear(z, self.concat.weight[:, : self.embed_dim], self.concat.bias)
        return Terms(stream, self.up[0](stream))

    def hypothesis_terms(self, x_hat: Float[Tensor, "rows dim"]) -> Terms:
        """W_x x_hat and its first up-projection, one row per hypothesis."""
        stream = F.linear(x_hat, self.concat.weight[:, self.embed_dim :])
        return Terms(stream, self.up[0](stream))

    def forward(self, terms: Terms, codewords: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        """What the step adds to the reconstruction, float32, for summed terms and their codewords.

        The terms are used up: their hidden layer is overwritten.
        """
        stream = terms.stream
        hidden = terms.hidden
        for block, down in enumerate(self.down):
            assert isinstance(down, nn.Linear)
            if block > 0:
                hidden = self.up[block](stream)
            stream = torch.addmm(stream, hidden.relu_(), down.weight.T)
        added = stream if self.out_proj is None else self.out_proj(stream)
        # float32 from here on: reconstructions and squared L2 are never rounded to half precision
        return added.float() + codewords if self.outer_skip else added.float()
