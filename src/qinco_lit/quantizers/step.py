"""One residual step: its codebook, its pre-selector, its network, and how it expands and continues hypotheses."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qinco_lit.quantizers.beam import Beam, Pairs, Search
from qinco_lit.quantizers.losses import StepTensors
from qinco_lit.quantizers.network import CodewordNetwork, Terms, Weights, add_product
from qinco_lit.quantizers.precision import Precision, num_finalists

_GROUP = 8  # columns whose minimum stands for them in `smallest`; measured at 8,192 to 16,384 columns


class Evaluator(NamedTuple):
    """The step's network in one precision: the weights, and one row per codeword of what depends on nothing else."""

    weights: Weights
    terms: Terms
    codewords: Float[Tensor, "codebook dim"] | None  # for the outer skip

    def to(self, dtype: torch.dtype) -> "Evaluator":
        """In another precision."""
        codewords = None if self.codewords is None else self.codewords.to(dtype)
        return Evaluator(self.weights.to(dtype), self.terms.to(dtype), codewords)

    def context(self, x_hat: Float[Tensor, "rows dim"]) -> Terms:
        """The terms of all codewords and, in the rows after them, those of hypotheses."""
        size = len(self.terms.stream)
        stream, hidden = (x_hat.new_empty((size + len(x_hat), part.shape[1])) for part in self.terms)
        stream[:size], hidden[:size] = self.terms
        torch.mm(x_hat, self.weights.context.T, out=stream[size:])
        torch.mm(stream[size:], self.weights.up[0].T, out=hidden[size:])
        return Terms(stream, hidden)


class StepTables(NamedTuple):
    """What a step knows before it sees a vector.

    Attributes:
        scoring: the network that all candidates are scored with, in the precision chosen.
        exact: the network that the reconstructions kept come from: `scoring` itself, or float32.
        rescore: evaluate the best candidates again with `exact`.
        preselector_half_norms: 0.5 |S_m[i]|^2.
    """

    exact: Evaluator
    scoring: Evaluator
    rescore: bool
    preselector_half_norms: Float[Tensor, " codebook"] | None


def _rows(codes: Int[Tensor, " rows"], table: Float[Tensor, "codebook dim"]) -> Float[Tensor, "rows dim"]:
    """As `F.embedding`, without what that takes to call, for which decoding a few rows waits."""
    return table.index_select(0, codes)


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

    def tables(self, precision: Precision) -> StepTables:
        """The codeword half of the network and the pre-selector's norms, to be reused for every batch."""
        weights, codewords = self.network.weights(), self._skipped()
        if precision.rescore or precision.scoring == torch.float32:
            exact = Evaluator(weights, weights.codeword_terms(self.codebook), codewords)
            scoring = exact.to(precision.scoring) if precision.rescore else exact
        else:
            low = weights.to(precision.scoring)
            codewords = None if codewords is None else codewords.to(precision.scoring)
            exact = scoring = Evaluator(low, low.codeword_terms(self.codebook), codewords)
        norms = None if self.preselector is None else 0.5 * self.preselector.square().sum(-1)
        return StepTables(exact, scoring, precision.rescore, norms)

    def extend(
        self, codes: Int[Tensor, " rows"], x_hat: Float[Tensor, "rows dim"], tables: StepTables | None
    ) -> Float[Tensor, "rows dim"]:
        """x_hat + f_m(C_m[codes], x_hat): one chosen codeword per reconstruction (decoding).

        `tables` None takes the weights as they are; gradients flow.
        """
        rows_of: Callable[[Tensor, Tensor], Tensor] = F.embedding if tables is None else _rows
        if tables is None:
            weights, codewords = self.network.weights(), self._skipped()
            codeword_stream = weights.codeword_stream(self.codebook)
        else:
            weights, terms, codewords = tables.exact
            codeword_stream = terms.stream
        # with one codeword per reconstruction there is nothing to share but the codeword's part of the stream
        stream = add_product(rows_of(codes, codeword_stream), x_hat.to(codeword_stream.dtype), weights.context)
        both = Terms(stream, F.linear(stream, weights.up[0]))
        return x_hat + weights.adapt(both, None if codewords is None else rows_of(codes, codewords))

    def trained_tensors(self) -> StepTensors:
        """What `losses` decodes with; gradients flow."""
        weights = self.network.weights()
        return StepTensors(
            weights.codeword_stream(self.codebook), weights.context, weights.up, weights.down, weights.out_proj,
            self._skipped(), self.preselector,
        )  # fmt: skip

    def _skipped(self) -> Float[Tensor, "codebook dim"] | None:
        return self.codebook if self.network.outer_skip else None

    def check(self, search: Search) -> None:
        """Raise ValueError for a search that needs a pre-selector where there is none."""
        if self.preselector is None and not search.tries_all:
            raise ValueError(
                "this model has no pre-selector: use num_candidates=0 and no candidate_budget, "
                "or fit one with `qinco fit-preselector`"
            )

    def candidates(self, residual: Float[Tensor, "batch beam dim"], search: Search, tables: StepTables) -> Pairs:
        """What to try: the pairs of hypothesis and codeword of S_m that are nearest to x in squared L2.

        `search` says whether they are ranked per hypothesis or over the whole beam.
        """
        batch, width, dim = residual.shape
        codebook_size = len(self.codebook)
        if search.tries_all:
            every = torch.arange(codebook_size, device=residual.device)
            return Pairs(None, every.expand(batch, width, -1).reshape(batch, -1))
        self.check(search)
        assert self.preselector is not None
        assert tables.preselector_half_norms is not None
        flat = residual.reshape(-1, dim)
        # half the squared L2 to S_m, up to |residual|^2, which is the same for all codewords
        score = torch.addmm(tables.preselector_half_norms, flat, self.preselector.T, alpha=-1)
        if search.candidate_budget is None:
            codes = score.topk(search.num_candidates, largest=False, sorted=False).indices
            return Pairs(None, codes.view(batch, -1))
        score += 0.5 * flat.square().sum(-1, keepdim=True)
        best = smallest(score.view(batch, width * codebook_size), search.candidate_budget)
        return Pairs(best // codebook_size, best % codebook_size)

    def search(
        self, x: Float[Tensor, "batch dim"], beam: Beam, search: Search, tables: StepTables, *, keep: int
    ) -> Beam:
        """Try the candidates on their hypotheses and keep the `keep` nearest to x in squared L2."""
        batch, width, dim = beam.x_hat.shape
        residual = x[:, None] - beam.x_hat
        pairs = self.candidates(residual, search, tables)
        context = _context(tables, beam.x_hat.view(-1, dim), pairs)
        finalists = num_finalists(keep)
        if tables.rescore and 2 * finalists < pairs.codes.shape[1]:  # with fewer, a first round would cost more
            low = context.to(tables.scoring.terms.stream.dtype)
            _, squared_l2 = evaluate(tables.scoring, low, residual, pairs)
            pairs = pairs.chosen(squared_l2.topk(finalists, largest=False, sorted=False).indices, width)
        added, squared_l2 = evaluate(tables.exact, context, residual, pairs)
        best = squared_l2.topk(min(keep, squared_l2.shape[1]), largest=False).indices
        parents, codes = pairs.chosen(best, width)
        assert parents is not None
        row = torch.arange(batch, device=x.device)[:, None]
        hypothesis = (parents + width * row).flatten()
        kept = beam.x_hat.view(-1, dim).index_select(0, hypothesis)
        kept += added.index_select(0, (best + pairs.codes.shape[1] * row).flatten())
        history = beam.codes.flatten(0, 1).index_select(0, hypothesis).view(*best.shape, beam.codes.shape[2])
        return Beam(kept.view(*best.shape, dim), torch.cat([history, codes[..., None]], dim=-1))


def evaluate(
    evaluator: Evaluator, context: Terms, residual: Float[Tensor, "batch beam dim"], pairs: Pairs
) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "batch pairs"]]:
    """What each pair would add to its hypothesis, and the squared L2 (float32) to x that it would leave.

    Args:
        evaluator: the network, in the precision wanted.
        context: the hypotheses' terms, batch x beam rows, in the same precision; in float32 on a CPU they may come
            after those of all codewords (`Evaluator.context`), so that a sum of two is a bag of two rows of one table.
        residual: x - x_hat, float32.
        pairs: what is evaluated.
    """
    batch, width, dim = residual.shape
    weights, terms, codewords = evaluator
    codeword, parents = pairs.codes.flatten(), pairs.parents
    chosen = None if codewords is None else codewords.index_select(0, codeword)
    residual = residual.reshape(-1, dim)
    num_codewords = len(context.stream) - len(residual)  # that come before the hypotheses
    if parents is None and num_codewords == 0:
        # the same number for every hypothesis, in order: no need to copy its row for each
        stream, hidden = terms.stream.index_select(0, codeword), terms.hidden.index_select(0, codeword)
        per_hypothesis = (batch * width, -1)
        stream.view(*per_hypothesis, stream.shape[1]).add_(context.stream[:, None])
        hidden.view(*per_hypothesis, hidden.shape[1]).add_(context.hidden[:, None])
        added = weights.adapt(Terms(stream, hidden), chosen)
        error = residual[:, None] - added.view(*per_hypothesis, dim)
        return added, error.square_().sum(-1).view(batch, -1)
    if parents is None:
        number = pairs.codes.shape[1]
        parents = torch.arange(number, device=residual.device) // (number // width)
    hypothesis = (parents + width * torch.arange(batch, device=residual.device)[:, None]).flatten()
    if num_codewords == 0:
        stream = terms.stream.index_select(0, codeword).add_(context.stream.index_select(0, hypothesis))
        hidden = terms.hidden.index_select(0, codeword).add_(context.hidden.index_select(0, hypothesis))
    else:
        rows = torch.stack([codeword, num_codewords + hypothesis], dim=1)
        stream, hidden = (F.embedding_bag(rows, table, mode="sum") for table in context)
    added = weights.adapt(Terms(stream, hidden), chosen)
    error = residual.index_select(0, hypothesis).sub_(added)
    return added, error.square_().sum(-1).view(batch, -1)


def _context(tables: StepTables, x_hat: Float[Tensor, "rows dim"], pairs: Pairs) -> Terms:
    """What `evaluate` needs of hypotheses to try pairs on them.

    A bag is one pass over memory, two gathers and an addition are four; but bags round half precision by other rules,
    and the codewords' terms are copied for them, which few pairs are not worth.
    """
    terms = tables.exact.terms.stream
    if tables.rescore or terms.dtype != torch.float32 or terms.device.type != "cpu" or len(terms) > pairs.codes.numel():
        return tables.exact.weights.hypothesis_terms(x_hat)
    return tables.exact.context(x_hat)


def smallest(scores: Float[Tensor, "rows columns"], number: int) -> Int[Tensor, "rows chosen"]:
    """Columns of the `number` smallest scores of each row, in any order.

    The smallest lie in the columns' groups with the smallest minima, so that a selection among the groups and one
    among their members do, of a quarter of the columns each at most: torch's top-k is slow on long rows of a CPU.
    Elsewhere that was not measured, and its own is taken.
    """
    columns = scores.shape[1]
    groups = columns // _GROUP
    if scores.device.type != "cpu" or columns % _GROUP or groups < 2 * number:
        return scores.topk(min(number, columns), largest=False, sorted=False).indices
    # column c belongs to group c % groups, so that minima are taken over whole contiguous rows
    group = scores.view(-1, _GROUP, groups).amin(1).topk(number, largest=False, sorted=False).indices
    members = (group[:, None] + groups * torch.arange(_GROUP, device=scores.device)[:, None]).flatten(1)
    return members.gather(1, scores.gather(1, members).topk(number, largest=False, sorted=False).indices)
