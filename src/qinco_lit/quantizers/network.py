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

    def to(self, dtype: torch.dtype) -> "Terms":
        """In another precision."""
        return Terms(self.stream.to(dtype), self.hidden.to(dtype))


class Weights(NamedTuple):
    """The network's matrices, all in one dtype, and the parts of its formula."""

    in_proj: Float[Tensor, "embed dim"] | None
    codeword: Float[Tensor, "embed embed"]  # W_z
    bias: Float[Tensor, " embed"] | None
    context: Float[Tensor, "embed dim"]  # W_x
    up: tuple[Float[Tensor, "hidden embed"], ...]
    down: tuple[Float[Tensor, "embed hidden"], ...]
    out_proj: Float[Tensor, "dim embed"] | None

    def to(self, dtype: torch.dtype) -> "Weights":
        """In another precision."""
        return Weights(
            in_proj=None if self.in_proj is None else self.in_proj.to(dtype),
            codeword=self.codeword.to(dtype),
            bias=None if self.bias is None else self.bias.to(dtype),
            context=self.context.to(dtype),
            up=tuple(matrix.to(dtype) for matrix in self.up),
            down=tuple(matrix.to(dtype) for matrix in self.down),
            out_proj=None if self.out_proj is None else self.out_proj.to(dtype),
        )

    def codeword_stream(self, codewords: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows embed"]:
        """Z + W_z z + b, one row per codeword."""
        # not rounded by autocast: few rows, and an error in one would meet all vectors of a batch that chose it
        with torch.autocast(codewords.device.type, enabled=False):
            codewords = codewords.to(self.codeword.dtype)
            z = codewords if self.in_proj is None else F.linear(codewords, self.in_proj)
            return z + F.linear(z, self.codeword, self.bias)

    def codeword_terms(self, codewords: Float[Tensor, "rows dim"]) -> Terms:
        """The codewords' stream and its first up-projection."""
        with torch.autocast(codewords.device.type, enabled=False):
            stream = self.codeword_stream(codewords)
            return Terms(stream, F.linear(stream, self.up[0]))

    def hypothesis_terms(self, x_hat: Float[Tensor, "rows dim"]) -> Terms:
        """W_x x_hat and its first up-projection, one row per hypothesis."""
        stream = F.linear(x_hat.to(self.context.dtype), self.context)
        return Terms(stream, F.linear(stream, self.up[0]))

    def adapt(self, terms: Terms, codewords: Float[Tensor, "rows dim"] | None) -> Float[Tensor, "rows dim"]:
        """What the step adds to the reconstruction: f for summed terms.

        Args:
            terms: of codeword and hypothesis together; used up: both are overwritten.
            codewords: for the outer skip of QINCo2, None without it.
        """
        stream = terms.stream
        hidden = terms.hidden
        for block, down in enumerate(self.down):
            if block > 0:
                hidden = F.linear(stream, self.up[block])
            stream = add_product(stream, _relu_(hidden), down)
        added = stream if self.out_proj is None else F.linear(stream, self.out_proj)
        if codewords is None:
            return added
        # in training with mixed precision the codeword is float32 and its sum is not rounded
        return added.add_(codewords) if added.dtype == codewords.dtype else added + codewords


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
        concat_rank: W is a product of two factors, (embed_dim + dim) -> concat_rank -> embed_dim, and there is no b
            (QINCo-LR, where the rank is `hidden_dim`); None: W is one matrix.
    """

    def __init__(
        self,
        dim: int,
        *,
        embed_dim: int,
        hidden_dim: int,
        num_blocks: int,
        outer_skip: bool,
        concat_rank: int | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.outer_skip = outer_skip
        self.in_proj = None if embed_dim == dim else nn.Linear(dim, embed_dim, bias=False)
        self.out_proj = None if embed_dim == dim else nn.Linear(embed_dim, dim, bias=False)
        both = embed_dim + dim
        self.concat = nn.Linear(both, embed_dim) if concat_rank is None else None
        self.concat_in = None if concat_rank is None else nn.Linear(both, concat_rank, bias=False)
        self.concat_out = None if concat_rank is None else nn.Linear(concat_rank, embed_dim, bias=False)
        self.up = nn.ModuleList(nn.Linear(embed_dim, hidden_dim, bias=False) for _ in range(num_blocks))
        self.down = nn.ModuleList(nn.Linear(hidden_dim, embed_dim, bias=False) for _ in range(num_blocks))

    def weights(self) -> Weights:
        """The matrices themselves, in which gradients flow."""
        concat, bias = self._concat()
        return Weights(
            in_proj=None if self.in_proj is None else self.in_proj.weight,
            codeword=concat[:, : self.embed_dim],
            bias=bias,
            context=concat[:, self.embed_dim :],
            up=_matrices(self.up),
            down=_matrices(self.down),
            out_proj=None if self.out_proj is None else self.out_proj.weight,
        )

    def _concat(self) -> tuple[Float[Tensor, "embed both"], Float[Tensor, " embed"] | None]:
        """W and b. Factors are multiplied here, once per step and batch: what follows costs as much as with one W."""
        if self.concat is not None:
            return self.concat.weight, self.concat.bias
        assert self.concat_in is not None
        assert self.concat_out is not None
        with torch.autocast(self.concat_in.weight.device.type, enabled=False):
            return self.concat_out.weight @ self.concat_in.weight, None


def _matrices(layers: nn.ModuleList) -> tuple[Tensor, ...]:
    return tuple(layer.weight for layer in layers if isinstance(layer, nn.Linear))


def _relu_(x: Tensor) -> Tensor:
    if x.element_size() == 2 and not x.requires_grad:
        # the sign of a half-precision float is the sign of its bits: four times as fast as a ReLU that converts
        x.view(torch.int16).clamp_(min=0)
        return x
    return x.relu_()


def add_product(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Total + x W^T; `total` is used up when no gradients flow."""
    if torch.is_autocast_enabled(x.device.type):
        return total + F.linear(x, weight)  # the stream stays float32, the product alone is rounded
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (total, x, weight)):
        return torch.addmm(total, x, weight.T)
    return total.addmm_(x, weight.T)  # one pass: the product accumulates in place
