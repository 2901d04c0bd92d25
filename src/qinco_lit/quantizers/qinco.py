"""QINCo1 and QINCo2: neural residual quantization of normalised vectors with beam search."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qinco_lit.quantizers.beam import Beam, Pairs, Search
from qinco_lit.quantizers.losses import losses
from qinco_lit.quantizers.network import CodewordNetwork
from qinco_lit.quantizers.precision import FLOAT32, Precision
from qinco_lit.quantizers.step import ResidualStep, StepTables, evaluate
from qinco_lit.quantizers.workers import results_of


class QINCo(nn.Module):
    """Residual quantizer whose codebooks depend on the reconstruction so far.

    It codes what a start leaves of normalised vectors. Without a start its first codebook is a plain one; with a start
    (the vector's centroid), every step owns a network, and the first tries max(A, B) candidates.

    QINCo1 ("Residual Quantization with Implicit Neural Codebooks", ICML 2024): `num_candidates=0, beam_size=1,
    outer_skip=False, embed_dim=None`. QINCo2 ("Qinco2: Vector Compression and Search with Improved Implicit Neural
    Codebooks", ICLR 2025): pre-selected candidates, beam search, outer skip.

    Args:
        dim: dimension of the vectors (D).
        num_steps: residual steps (M), codes per vector.
        codebook_size: codewords per codebook (K).
        embed_dim: width of the networks' residual stream (d_e); None means `dim`, without projections.
        hidden_dim: hidden width of a block (d_h).
        num_blocks: residual blocks per step (L).
        concat_rank: rank of the networks' first layer, made of two factors without bias (QINCo-LR); None: one matrix.
        outer_skip: add the codeword to the network's output (QINCo2).
        num_candidates: codewords pre-selected per hypothesis (A); 0 tries all K and builds no pre-selector.
        beam_size: hypotheses kept between steps (B).
        candidate_budget: try so many pairs of hypothesis and codeword per step (T), the best of the whole beam; None
            tries A codewords on every hypothesis, as in the papers.
        preselector: whether the steps own pre-selectors; None builds them when `num_candidates` asks for them. With
            `num_candidates=0` they serve searches at run time.
        has_start: whether vectors come with a start.

    Raises:
        ValueError: for a size that is out of range.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_steps: int = 8,
        codebook_size: int = 256,
        embed_dim: int | None = None,
        hidden_dim: int = 256,
        num_blocks: int = 2,
        concat_rank: int | None = None,
        outer_skip: bool = True,
        num_candidates: int = 16,
        beam_size: int = 32,
        candidate_budget: int | None = None,
        preselector: bool | None = None,
        has_start: bool = False,
    ) -> None:
        super().__init__()
        sizes: dict[str, int | None] = {
            "dim": dim, "num_steps": num_steps, "embed_dim": embed_dim, "hidden_dim": hidden_dim,
            "num_blocks": num_blocks, "concat_rank": concat_rank,
        }  # fmt: skip
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not 2 <= codebook_size <= 65536:
            raise ValueError(f"codebook_size={codebook_size} must be from 2 to 65536")
        self.dim, self.num_steps, self.codebook_size, self.has_start = dim, num_steps, codebook_size, has_start
        self.embed_dim, self.hidden_dim, self.num_blocks = embed_dim or dim, hidden_dim, num_blocks
        preselect = num_candidates > 0 if preselector is None else preselector
        if not preselect and (candidate_budget is not None or num_candidates > 0):
            raise ValueError(
                f"num_candidates={num_candidates} with candidate_budget={candidate_budget} needs a pre-selector"
            )
        self.default_search = Search(beam_size, num_candidates, candidate_budget, codebook_size)
        self.config: dict[str, Any] = {
            "num_steps": num_steps, "codebook_size": codebook_size, "embed_dim": embed_dim, "hidden_dim": hidden_dim,
            "num_blocks": num_blocks, "concat_rank": concat_rank, "outer_skip": outer_skip,
            "num_candidates": num_candidates, "beam_size": beam_size, "candidate_budget": candidate_budget,
            "preselector": preselect,
        }  # fmt: skip
        self.first_codebook = None if has_start else nn.Parameter(torch.zeros(codebook_size, dim))
        network: dict[str, Any] = {
            "embed_dim": self.embed_dim, "hidden_dim": hidden_dim, "num_blocks": num_blocks, "outer_skip": outer_skip,
            "concat_rank": concat_rank,
        }  # fmt: skip
        self._steps = tuple(
            ResidualStep(dim, codebook_size, preselect=preselect, network=CodewordNetwork(dim, **network))
            for _ in range(num_steps if has_start else num_steps - 1)
        )
        self.steps = nn.ModuleList(self._steps)  # the same, with the names of the weights

    def search_for(
        self,
        *,
        beam_size: int | None = None,
        num_candidates: int | None = None,
        candidate_budget: int | None = None,
    ) -> Search:
        """The model's own search with what is given instead; a budget and candidates per hypothesis exclude each other.

        Raises:
            ValueError: sizes out of range, both kinds of candidates, or a budget for a model without pre-selector.
        """
        own = self.default_search
        if num_candidates is not None and candidate_budget is not None:
            raise ValueError(
                f"num_candidates={num_candidates} (per hypothesis) and candidate_budget={candidate_budget} "
                "(over the beam) exclude each other: give one"
            )
        if num_candidates is None and candidate_budget is None:
            candidate_budget = own.candidate_budget
        search = Search(
            own.beam_size if beam_size is None else beam_size,
            own.num_candidates if num_candidates is None else num_candidates,
            candidate_budget,
            self.codebook_size,
        )
        for step in self.residual_steps():
            step.check(search)
        return search

    def residual_steps(self) -> tuple[ResidualStep, ...]:
        """The steps that own a network: M - 1, or M with a start."""
        return self._steps

    def network_step(self, index: int) -> ResidualStep | None:
        """The step of code `index` (from 0); None where that is the plain first codebook."""
        steps = self.residual_steps()
        return steps[index] if self.has_start else steps[index - 1] if index > 0 else None

    def tables(self, precision: Precision = FLOAT32) -> list[StepTables]:
        """Per-step tables of the current weights; compute once, reuse for every batch until the weights change.

        Candidates are scored in `precision`.
        """
        made = [partial(step.tables, precision) for step in self.residual_steps()]
        return results_of(made, next(self.parameters()).device)

    @torch.no_grad()
    def encode(
        self,
        x: Float[Tensor, "batch dim"],
        start: Float[Tensor, "batch dim"] | None,
        search: Search,
        tables: list[StepTables],
        *,
        num_steps: int,
    ) -> Int[Tensor, "batch num_steps"]:
        """Beam search for the codes of vectors that are searched together (int64).

        Args:
            x: vectors in normalised space, float32.
            start: what they are coded from, where the model has starts.
            search: from `search_for`.
            tables: from `tables()`, which set the precision.
            num_steps: codes wanted, 1 to the model's; the search ends after as many.
        """
        tables = tables[: num_steps if self.has_start else num_steps - 1]
        beam = self._first_beam(x, start, search.beam_size if tables else 1)
        for index, (step, table) in enumerate(zip(self.residual_steps(), tables, strict=False), start=1):
            last = index == len(tables)
            own = search.for_step(first_of_list=index == 1 and self.has_start, last=last)
            beam = step.search(x, beam, own, table, keep=1 if last else search.beam_size)
        return beam.codes[:, 0]

    def _first_beam(
        self, x: Float[Tensor, "batch dim"], start: Float[Tensor, "batch dim"] | None, beam_size: int
    ) -> Beam:
        """The start alone, without codes; or the best codes of the first codebook."""
        if start is not None:
            return Beam(start[:, None], torch.empty((len(x), 1, 0), dtype=torch.int64, device=x.device))
        first = self.first_codebook
        assert first is not None
        score = torch.addmm(0.5 * first.square().sum(-1), x, first.T, alpha=-1)
        codes = score.topk(min(beam_size, len(first)), largest=False).indices
        return Beam(first[codes], codes[..., None])

    def advance(
        self,
        index: int,
        codes: Int[Tensor, " batch"],
        x_hat: Float[Tensor, "batch dim"] | None,
        tables: list[StepTables] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Normalised reconstruction after code `index` from the one before, which at the first is the start, or None.

        Differentiable; `tables` (from `tables()`) set the precision, None is the weights as they are.
        """
        if x_hat is None:
            assert self.first_codebook is not None
            return F.embedding(codes, self.first_codebook)
        number = index if self.has_start else index - 1
        return self._steps[number].extend(codes, x_hat, None if tables is None else tables[number])

    def reconstructions(
        self, codes: Int[Tensor, "batch codes"], start: Float[Tensor, "batch dim"] | None
    ) -> Iterator[Float[Tensor, "batch dim"]]:
        """Normalised reconstruction after code 0, 1, ... for as many as are given; differentiable."""
        x_hat = start
        for index in range(codes.shape[1]):
            x_hat = self.advance(index, codes[:, index], x_hat)
            yield x_hat

    def losses(
        self,
        x: Float[Tensor, "batch dim"],
        codes: Int[Tensor, "batch num_steps"],
        start: Float[Tensor, "batch dim"] | None,
    ) -> tuple[Float[Tensor, " num_steps"], Float[Tensor, " preselectors"]]:
        """Training losses of normalised vectors along chosen codes: of reconstructions, and of pre-selectors.

        Reconstruction: mean((x_hat_m - x)^2) for every step. Pre-selector, m >= 1:
        mean((stopgrad(x_hat_{m-1}) + S_m[i_m] - x)^2). Inside the network x_hat_{m-1} keeps its gradient.
        """
        if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            steps = [step.trained_tensors() for step in self.residual_steps()]
            return losses(x, codes, start, self.first_codebook, steps)
        reconstruction, preselector, previous = [], [], start
        for index, x_hat in enumerate(self.reconstructions(codes, start)):
            reconstruction.append((x_hat - x).square().mean())
            step = self.network_step(index)
            if step is not None and step.preselector is not None:
                assert previous is not None
                target = x - previous.detach()
                preselector.append((F.embedding(codes[:, index], step.preselector) - target).square().mean())
            previous = x_hat
        of_steps = torch.stack(reconstruction)
        return of_steps, torch.stack(preselector) if preselector else of_steps.new_zeros(0)

    @torch.no_grad()
    def fit_preselectors(
        self,
        codes: Int[Tensor, "rows num_steps"],
        start: Float[Tensor, "rows dim"] | None,
        tables: list[StepTables],
        *,
        rows_together: int,
    ) -> None:
        """Give every step the pre-selector S_m[i] = mean over rows of f_m(C_m[i], x_hat_{m-1}), in place.

        What a codeword adds depends on the reconstruction so far, but mostly on the codeword: its mean names the
        candidates well enough that 16 to 32 of 256 need the network (benchmarks/RESULTS.md). Networks and the model's
        own search stay what they were, pre-selectors it has are replaced.

        Args:
            codes: of one or two thousand vectors, found by trying all codewords.
            start: what these were coded from, where the model has starts.
            tables: of the networks.
            rows_together: vectors on which all codewords are tried together.
        """
        every = torch.arange(self.codebook_size, device=codes.device)
        before = [start] if start is not None else []
        reconstructions = [*before, *self.reconstructions(codes[:, :-1], start)]
        for step, table, x_hat in zip(self.residual_steps(), tables, reconstructions, strict=True):
            total = torch.zeros_like(step.codebook, dtype=torch.float64)
            for part in torch.split(x_hat, rows_together):
                context = table.exact.weights.hypothesis_terms(part)
                pairs = Pairs(None, every.expand(len(part), -1))
                added, _ = evaluate(table.exact, context, torch.zeros_like(part)[:, None], pairs)
                total += added.view(len(part), *total.shape).sum(0)
            step.preselector = nn.Parameter((total / len(codes)).to(step.codebook.dtype), step.codebook.requires_grad)
        self.config["preselector"] = True

    # -- what it costs, in multiplications of matrix products (docs/choosing.md has the formulas) ------------------

    def encode_multiplications(self, search: Search) -> int:
        """To encode one vector by a search, in float32."""
        size, per_pair = self.codebook_size, (2 * self.num_blocks - 1) * self.embed_dim * self.hidden_dim
        per_pair += self._projection_multiplications
        total, width = (0, 1) if self.has_start else (size * self.dim, min(search.beam_size, size))
        for index in range(1, len(self.steps) + 1):
            own = search.for_step(first_of_list=index == 1 and self.has_start, last=index == len(self.steps))
            if own.candidate_budget is not None:
                pairs = min(own.candidate_budget, width * size)
            else:
                pairs = width * (own.num_candidates or size)
            total += 0 if own.tries_all else width * size * self.dim
            total += width * (self.dim * self.embed_dim + self.embed_dim * self.hidden_dim) + pairs * per_pair
            width = min(search.beam_size, pairs)
        return total

    def decode_multiplications(self) -> int:
        """To decode all codes of one vector, one step after the other."""
        blocks = 2 * self.num_blocks * self.embed_dim * self.hidden_dim
        return len(self.steps) * (self.dim * self.embed_dim + blocks + self._projection_multiplications)

    @property
    def _projection_multiplications(self) -> int:
        return 0 if self.embed_dim == self.dim else self.embed_dim * self.dim
