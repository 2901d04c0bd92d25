"""QINCo1 and QINCo2: neural residual quantization with beam search."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from qinco_lit.quantizers.allocation import keep_freed_memory
from qinco_lit.quantizers.beam import SEARCHES, Beam, Search, checked_num_steps
from qinco_lit.quantizers.chunks import vectors_per_chunk
from qinco_lit.quantizers.kept import Kept
from qinco_lit.quantizers.kmeans import half_squared_norms, nearest_codeword
from qinco_lit.quantizers.losses import StepLosses
from qinco_lit.quantizers.network import CodewordNetwork
from qinco_lit.quantizers.precision import FLOAT32, Precision
from qinco_lit.quantizers.step import ResidualStep, StepTables


class QINCo(nn.Module):
    """Residual quantizer whose codebooks depend on the reconstruction so far.

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
        search: `per_hypothesis` tries A codewords on every hypothesis, as in the papers; `budget` tries the
            `candidate_budget` best pairs of hypothesis and codeword of the whole beam.
        candidate_budget: those pairs per step (T); needed by, and only by, `search=budget`.
        preselector: whether the steps own pre-selectors; None builds them when `num_candidates` asks for them. With
            `num_candidates=0` they serve searches at run time.
        num_lists: of a frozen coarse codebook that comes first (IVF); None for a plain model. Its codes start with the
            list id, all `num_steps` steps own a network, and the first of them tries max(A, B) candidates.

    Raises:
        ValueError: for a size that is out of range.
    """

    data_mean: Tensor
    data_std: Tensor
    coarse_centroids: Tensor | None

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
        search: str = "per_hypothesis",
        candidate_budget: int | None = None,
        preselector: bool | None = None,
        num_lists: int | None = None,
    ) -> None:
        super().__init__()
        sizes: dict[str, int | None] = {
            "dim": dim, "num_steps": num_steps, "embed_dim": embed_dim, "hidden_dim": hidden_dim,
            "num_blocks": num_blocks, "concat_rank": concat_rank, "num_lists": num_lists,
        }  # fmt: skip
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not 2 <= codebook_size <= 65536:
            raise ValueError(f"codebook_size={codebook_size} must be from 2 to 65536")
        self.dim, self.num_steps, self.codebook_size, self.num_lists = dim, num_steps, codebook_size, num_lists
        self.embed_dim, self.hidden_dim = embed_dim or dim, hidden_dim
        if search not in SEARCHES:
            raise ValueError(f"search={search} is unknown: choose from {', '.join(SEARCHES)}")
        if (search == "budget") != (candidate_budget is not None):
            raise ValueError(
                f"search={search} with candidate_budget={candidate_budget}: search=budget needs one, others none"
            )
        preselect = num_candidates > 0 if preselector is None else preselector
        if not preselect and (search == "budget" or num_candidates > 0):
            raise ValueError(f"search={search} with num_candidates={num_candidates} needs a pre-selector")
        self.default_search = Search(beam_size, num_candidates, candidate_budget, codebook_size)
        self.config: dict[str, Any] = {
            "num_steps": num_steps, "codebook_size": codebook_size, "embed_dim": embed_dim, "hidden_dim": hidden_dim,
            "num_blocks": num_blocks, "concat_rank": concat_rank, "outer_skip": outer_skip,
            "num_candidates": num_candidates, "beam_size": beam_size, "search": search,
            "candidate_budget": candidate_budget,
            "preselector": preselect, "num_lists": num_lists,
        }  # fmt: skip
        self.register_buffer("data_mean", torch.zeros(dim))
        self.register_buffer("data_std", torch.ones(()))
        self.register_buffer("coarse_centroids", None if num_lists is None else torch.zeros(num_lists, dim))
        self._coarse_half_norms = Kept(half_squared_norms)
        self.first_codebook = nn.Parameter(torch.zeros(codebook_size, dim)) if num_lists is None else None
        network: dict[str, Any] = {
            "embed_dim": self.embed_dim, "hidden_dim": hidden_dim, "num_blocks": num_blocks, "outer_skip": outer_skip,
            "concat_rank": concat_rank,
        }  # fmt: skip
        self.steps = nn.ModuleList(
            ResidualStep(dim, codebook_size, preselect=preselect, network=CodewordNetwork(dim, **network))
            for _ in range(num_steps - 1 if num_lists is None else num_steps)
        )

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

    def residual_steps(self) -> list[ResidualStep]:
        """The steps that own a network, typed (iterating a ModuleList gives plain modules): 1..M-1, IVF 1..M."""
        return [step for step in self.steps if isinstance(step, ResidualStep)]

    def network_step(self, index: int) -> ResidualStep | None:
        """The step of code `index` (from 0); None where that is the plain first codebook."""
        steps = self.residual_steps()
        return steps[index] if self.num_lists is not None else steps[index - 1] if index > 0 else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.data_mean.device

    @property
    def parts(self) -> "list[QINCo]":
        """The quantizers that the codes are of, as of a `ProductQINCo`: itself."""
        return [self]

    @property
    def part_slices(self) -> list[slice]:
        """Dimensions of each part: all of them."""
        return [slice(0, self.dim)]

    @property
    def part_columns(self) -> list[list[int]]:
        """Columns of the codes of each part, after the list ids: all of them."""
        return [list(range(self.num_steps))]

    def part_codes(self, codes: Int[Tensor, "batch columns"]) -> list[Int[Tensor, "batch columns"]]:
        """The codes of each part: all of them."""
        return [codes]

    @property
    def num_columns(self) -> int:
        """Columns of codes: one per step, after the list id of an IVF model."""
        return 1 + len(self.steps)

    @property
    def first_table(self) -> Float[Tensor, "rows dim"]:
        """What the first column of the codes indexes: the first codebook, or the coarse centroids."""
        table = self.first_codebook if self.coarse_centroids is None else self.coarse_centroids
        assert table is not None
        return table

    def tables(self, precision: Precision = FLOAT32, *, compiled: bool = False) -> list[StepTables]:
        """Per-step tables of the current weights; compute once, reuse for every batch until the weights change.

        Candidates are scored in `precision`; `compiled` by a function of torch.compile (a CPU needs a C++ compiler).
        """
        return [step.tables(precision, compiled=compiled) for step in self.residual_steps()]

    def rotated(self, x: Shaped[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """What the parts divide among them: x in float32, as there is no rotation."""
        return x.float()

    def normalize(self, x: Shaped[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """(x - mean) / std in float32, from any real dtype."""
        return (x.float() - self.data_mean) / self.data_std

    def denormalize(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Back to raw space."""
        return x * self.data_std + self.data_mean

    def raw_squared_error(self, x_hat: Float[Tensor, "batch dim"], x: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
        """Sum over rows and dimensions, in raw space, float64, of the error between normalised vectors."""
        return (x_hat - x).square().sum().double() * self.data_std.double() ** 2

    @torch.no_grad()
    def set_centroids(self, centroids: Float[Tensor, "lists dim"]) -> None:
        """Take the coarse centroids, in raw space; the normalisation must be known."""
        assert self.coarse_centroids is not None
        self.coarse_centroids.copy_(self.normalize(centroids))

    def raw_centroids(self) -> Float[Tensor, "lists dim"] | None:
        """The coarse centroids in raw space, a copy; None for a plain model."""
        return None if self.coarse_centroids is None else self.denormalize(self.coarse_centroids)

    @torch.no_grad()
    def assign_lists(self, x: Float[Tensor, "batch dim"]) -> Int[Tensor, " batch"]:
        """List of each normalised vector (int64): that of the nearest centroid, by brute force in bounded memory."""
        assert self.coarse_centroids is not None
        with torch.autocast(x.device.type, enabled=False):
            return nearest_codeword(x, self.coarse_centroids, self._coarse_half_norms(self.coarse_centroids))

    @torch.no_grad()
    def encode(
        self,
        x: Float[Tensor, "batch dim"],
        search: Search | None = None,
        *,
        num_steps: int | None = None,
        list_ids: Int[Tensor, " batch"] | None = None,
        workspace_bytes: int | None = None,
        tables: list[StepTables] | None = None,
    ) -> Int[Tensor, "batch columns"]:
        """Beam search for the codes of normalised vectors (int64); IVF models put the list id first.

        Args:
            x: vectors in normalised space, float32.
            search: from `search_for`; None is the model's own.
            num_steps: codes wanted, 1 to the model's; the search ends after as many. None: all.
            list_ids: of an IVF model: the list of each vector, taken as it is; None is `assign_lists`.
            workspace_bytes: bound on the memory of intermediate results, at least one vector at a time.
            tables: from `tables()`, which set the precision, to share them between calls; None is float32.
        """
        search = self.default_search if search is None else search
        tables = self.tables() if tables is None else tables
        tables = tables[: len(tables) - self.num_steps + checked_num_steps(num_steps, self.num_steps)]
        if x.device.type == "cpu":
            keep_freed_memory()
        if self.num_lists is not None and list_ids is None:
            list_ids = self.assign_lists(x)
        half = any(table.scoring.terms.stream.dtype != torch.float32 for table in tables)
        chunk = self.vectors_per_chunk(search, workspace_bytes, x.device, half_precision=half)
        with torch.autocast(x.device.type, enabled=False):  # the tables say what is rounded, and nothing else is
            first = self._first_codes(x, 1 if not tables else search.beam_size, list_ids, chunk)
            parts = [
                self._search(part, codes, search, tables)
                for part, codes in zip(torch.split(x, chunk), first, strict=True)
            ]
        return torch.cat(parts)

    def vectors_per_chunk(
        self, search: Search, workspace_bytes: int | None, device: torch.device, *, half_precision: bool = False
    ) -> int:
        """How many vectors are searched together so that intermediate results stay within the workspace."""
        widths, plain = (self.dim, self.embed_dim, self.hidden_dim), self.num_lists is None
        return vectors_per_chunk(
            search, workspace_bytes, device, widths=widths, scores_first=plain, half_precision=half_precision
        )

    def _first_codes(
        self, x: Float[Tensor, "batch dim"], beam_size: int, list_ids: Int[Tensor, " batch"] | None, chunk: int
    ) -> Iterator[Int[Tensor, "part first"]]:
        """What each chunk's hypotheses start with: the lists, or the best codes of the first codebook."""
        if list_ids is not None:
            yield from torch.split(list_ids[:, None], chunk)
            return
        first = self.first_table
        half_norms = 0.5 * first.square().sum(-1)
        keep = min(beam_size, len(first))
        for part in torch.split(x, chunk):
            yield torch.addmm(half_norms, part, first.T, alpha=-1).topk(keep, largest=False).indices

    def _search(
        self,
        x: Float[Tensor, "batch dim"],
        codes: Int[Tensor, "batch first"],
        search: Search,
        tables: list[StepTables],
    ) -> Int[Tensor, "batch columns"]:
        """Best codes of vectors whose hypotheses start with `codes`, after as many steps as there are tables."""
        beam = Beam(self.first_table[codes], codes[..., None])
        steps = self.residual_steps()[: len(tables)]
        for index, (step, table) in enumerate(zip(steps, tables, strict=True), start=1):
            last = index == len(tables)
            own = search.for_step(first_of_list=index == 1 and self.num_lists is not None, last=last)
            beam = step.search(x, beam, own, table, keep=1 if last else search.beam_size)
        return beam.codes[:, 0]

    def advance(
        self,
        index: int,
        codes: Int[Tensor, " batch"],
        x_hat: Float[Tensor, "batch dim"] | None,
        tables: list[StepTables] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Normalised reconstruction after column `index` of the codes from the one before (None at the first).

        Differentiable; `tables` (from `tables()`) set the precision, None is the weights as they are.
        """
        if x_hat is None:
            return F.embedding(codes, self.first_table)
        return self.residual_steps()[index - 1].extend(codes, x_hat, None if tables is None else tables[index - 1])

    def reconstructions(self, codes: Int[Tensor, "batch columns"]) -> Iterator[Float[Tensor, "batch dim"]]:
        """Normalised reconstruction after column 0, 1, ... for as many codes as are given; differentiable."""
        x_hat = None
        for index in range(codes.shape[1]):
            x_hat = self.advance(index, codes[:, index], x_hat)
            yield x_hat

    def losses(self, x: Float[Tensor, "batch dim"], codes: Int[Tensor, "batch columns"]) -> StepLosses:
        """Training losses of normalised vectors along chosen codes.

        Reconstruction: mean((x_hat_m - x)^2) for every step. Pre-selector, m >= 1:
        mean((stopgrad(x_hat_{m-1}) + S_m[i_m] - x)^2). Inside the network x_hat_{m-1} keeps its gradient.
        """
        reconstruction, preselector, previous = [], [], None
        for index, x_hat in enumerate(self.reconstructions(codes)):
            if index > 0 or self.num_lists is None:  # the centroids are frozen: nothing to learn from their error
                reconstruction.append((x_hat - x).square().mean())
            if previous is not None:
                table = self.residual_steps()[index - 1].preselector
                if table is not None:
                    target = x - previous.detach()
                    preselector.append((F.embedding(codes[:, index], table) - target).square().mean())
            previous = x_hat
        return StepLosses.of(reconstruction, preselector, self.data_std.double() ** 2 * self.dim)

    def forward(self, x: Float[Tensor, "batch dim"], codes: Int[Tensor, "batch columns"]) -> StepLosses:
        """`losses`, under the name that DDP wraps."""
        return self.losses(x, codes)
