"""One residual step: its codebook, its pre-selector, its network, and how it expands and continues hypotheses."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qinco_lit.quantizers.network import CodewordNetwork, Terms


class StepTables(NamedTuple):
    """What a step knows before it sees a vector: one row per codeword."""

    terms: Terms
    codebook: Float[Tensor, "codebook dim"]
    preselector_half_norms: Float[Tensor, " codebook"] | None


class Beam(NamedTuple):
    """Hypotheses per vector, best first."""

    x_hat: Float[Tensor, "batch beam dim"]
    codes: Int[Tensor, "batch beam steps"]


class ResidualStep(nn.Module):
    """Step m >= 1: adds f_m(C_m[i], x_hat) to a hypothesis.

    Args:
        dim, codebook_size: D and K.
        preselect: own a second plain codebook S_m (QINCo2) that names the candidates; without it all K are tried.
        network: the arguments of `CodewordNetwork`.
    """

    def __init__(self, dim: int, codebook_size: int, *, preselect: bool, network: CodewordNetwork) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.zeros(codebook_size, dim))
        self.preselector = nn.Parameter(torch.zeros(codebook_size, dim)) if preselect else None
        self.network = network

    def tables(self) -> StepTables:
        """The codeword half of the network and the pre-selector's norms, to be reused for every batch."""
        norms = None if self.preselector is None else 0.5 * self.preselector.square().sum(-1)
        return StepTables(self.network.codeword_terms(self.codebook), self.codebook, norms)

    def extend(
        self, codes: Int[Tensor, " rows"], x_hat: Float[Tensor, "rows dim"], tables: StepTables
    ) -> Float[Tensor, "rows dim"]:
        """x_hat + f_m(C_m[codes], x_hat): one chosen codeword per reconstruction (decoding)."""
        chosen = Terms(F.embedding(codes, tables.terms.stream), F.embedding(codes, tables.terms.hidden))
        terms = chosen.add(self.network.hypothesis_terms(x_hat))
        added: Tensor = self.network(terms, F.embedding(codes, tables.codebook))
        return x_hat + added

    def candidates(
        self, residual: Float[Tensor, "rows dim"], num_candidates: int, tables: StepTables
    ) -> Int[Tensor, "rows candidates"]:
        """The codewords of S_m nearest to each residual in squared L2; all K for num_candidates = 0."""
        codebook_size = len(self.codebook)
        if num_candidates == 0 or num_candidates >= codebook_size:
            return torch.arange(codebook_size, device=residual.device).expand(len(residual), -1)
        if self.preselector is None or tables.preselector_half_norms is None:
            raise ValueError(
                f"num_candidates={num_candidates} needs a pre-selector; this model was built without (use 0)"
            )
        with torch.autocast(residual.device.type, enabled=False):  # squared L2 in float32
            score = torch.addmm(tables.preselector_half_norms, residual, self.preselector.T, alpha=-1)
        return score.topk(num_candidates, largest=False, sorted=False).indices

    def search(
        self, x: Float[Tensor, "batch dim"], beam: Beam, *, num_candidates: int, beam_size: int, tables: StepTables
    ) -> Beam:
        """Expand every hypothesis by its candidates and keep the `beam_size` nearest to x in squared L2."""
        batch, width, dim = beam.x_hat.shape
        x_hat = beam.x_hat.reshape(-1, dim)
        residual = (x[:, None] - beam.x_hat).reshape(-1, dim)
        codes = self.candidates(residual, num_candidates, tables)
        per_hypothesis = codes.shape[1]

        flat = codes.reshape(-1)
        context = self.network.hypothesis_terms(x_hat)
        rows = (len(x_hat), per_hypothesis, -1)
        stream = tables.terms.stream.index_select(0, flat).view(rows).add_(context.stream[:, None])
        hidden = tables.terms.hidden.index_select(0, flat).view(rows).add_(context.hidden[:, None])
        terms = Terms(stream.flatten(0, 1), hidden.flatten(0, 1))
        added = self.network(terms, tables.codebook.index_select(0, flat)).view(rows)

        squared_l2 = (residual[:, None] - added).square_().sum(-1).view(batch, width * per_hypothesis)
        best = squared_l2.topk(min(beam_size, width * per_hypothesis), largest=False).indices
        parent = best // per_hypothesis
        row = torch.arange(batch, device=x.device)[:, None]
        kept = beam.x_hat[row, parent] + added.view(batch, width * per_hypothesis, dim)[row, best]
        chosen = codes.reshape(batch, -1).gather(1, best)
        return Beam(kept, torch.cat([beam.codes[row, parent], chosen[..., None]], dim=-1))
