"""One residual step: its codebook, its pre-selector, its network, and how it expands and continues hypotheses."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qinco_lit.quantizers.beam import Beam, Pairs, Search
from qinco_lit.quantizers.network import CodewordNetwork, Terms


class StepTables(NamedTuple):
    """What a step knows before it sees a vector: one row per codeword."""

    terms: Terms
    codebook: Float[Tensor, "codebook dim"]
    preselector_half_norms: Float[Tensor, " codebook"] | None


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

    def candidates(self, residual: Float[Tensor, "batch beam dim"], search: Search, tables: StepTables) -> Pairs:
        """What to try: the pairs of hypothesis and codeword of S_m that are nearest to x in squared L2.

        `search` says whether they are ranked per hypothesis or over the whole beam.
        """
        batch, width, dim = residual.shape
        codebook_size = len(self.codebook)
        if search.candidate_budget is None and search.num_candidates in (0, codebook_size):
            codes = torch.arange(codebook_size, device=residual.device).expand(batch * width, -1)
        elif self.preselector is None or tables.preselector_half_norms is None:
            raise ValueError("this model has no pre-selector: use num_candidates=0 and no candidate_budget")
        else:
            flat = residual.reshape(-1, dim)
            with torch.autocast(residual.device.type, enabled=False):  # squared L2 in float32
                # half the squared L2 to S_m, up to |residual|^2, which is the same for all codewords
                score = torch.addmm(tables.preselector_half_norms, flat, self.preselector.T, alpha=-1)
            if search.candidate_budget is not None:
                score += 0.5 * flat.square().sum(-1, keepdim=True)
                score = score.view(batch, width * codebook_size)
                best = score.topk(min(search.candidate_budget, score.shape[1]), largest=False, sorted=False).indices
                return Pairs(best // codebook_size, best % codebook_size)
            codes = score.topk(search.num_candidates, largest=False, sorted=False).indices
        parents = torch.arange(width, device=residual.device)[:, None].expand(width, codes.shape[1])
        return Pairs(parents.reshape(1, -1).expand(batch, -1), codes.reshape(batch, -1))

    def search(
        self, x: Float[Tensor, "batch dim"], beam: Beam, search: Search, tables: StepTables, *, keep: int
    ) -> Beam:
        """Try the candidates on their hypotheses and keep the `keep` nearest to x in squared L2."""
        batch, width, dim = beam.x_hat.shape
        residual = x[:, None] - beam.x_hat
        parents, codes = self.candidates(residual, search, tables)
        row = torch.arange(batch, device=x.device)[:, None]
        hypothesis = (parents + width * row).flatten()
        codeword = codes.flatten()

        context = self.network.hypothesis_terms(beam.x_hat.reshape(-1, dim))
        stream = tables.terms.stream.index_select(0, codeword).add_(context.stream.index_select(0, hypothesis))
        hidden = tables.terms.hidden.index_select(0, codeword).add_(context.hidden.index_select(0, hypothesis))
        added = self.network(Terms(stream, hidden), tables.codebook.index_select(0, codeword))

        error = residual.reshape(-1, dim).index_select(0, hypothesis).sub_(added)
        squared_l2 = error.square_().sum(-1).view(batch, -1)
        best = squared_l2.topk(min(keep, squared_l2.shape[1]), largest=False).indices
        parent = parents.gather(1, best)
        kept = beam.x_hat[row, parent] + added.view(batch, -1, dim)[row, best]
        return Beam(kept, torch.cat([beam.codes[row, parent], codes.gather(1, best)[..., None]], dim=-1))
