"""How the encoder searches: what it is allowed to try, and what it keeps."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class Beam(NamedTuple):
    """Hypotheses per vector, best first."""

    x_hat: Float[Tensor, "batch beam dim"]
    codes: Int[Tensor, "batch beam steps"]


class Pairs(NamedTuple):
    """Candidates of a step: which codeword is tried on which hypothesis of the beam.

    `parents` None means the same number for every hypothesis: first those of hypothesis 0, then of 1, and so on.
    """

    parents: Int[Tensor, "batch pairs"] | None
    codes: Int[Tensor, "batch pairs"]

    def chosen(self, columns: Int[Tensor, "batch chosen"], beam_size: int) -> "Pairs":
        """Some of the pairs, with their parents; `beam_size` is the number of hypotheses."""
        per_hypothesis = self.codes.shape[1] // beam_size
        parents = columns // per_hypothesis if self.parents is None else self.parents.gather(1, columns)
        return Pairs(parents, self.codes.gather(1, columns))


_NARROW_CANDIDATES = 4  # of all codewords; 16 end at the same error (benchmarks/RESULTS.md, "QINCo1's family")


@dataclass(frozen=True)
class Search:
    """Breadth of the search.

    Attributes:
        beam_size: hypotheses kept between steps (B).
        num_candidates: codewords tried on each hypothesis (A), named by the pre-selector; 0 tries all K.
        candidate_budget: instead, the pairs (hypothesis, codeword) tried per step over the whole beam: those whose
            pre-selected squared L2 is smallest. None tries `num_candidates` on each, as in the papers.

    Raises:
        ValueError: a size that no codebook of `codebook_size` codewords allows.
    """

    beam_size: int
    num_candidates: int
    candidate_budget: int | None
    codebook_size: int

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise ValueError(f"beam_size={self.beam_size} must be at least 1")
        if not 0 <= self.num_candidates <= self.codebook_size:
            limits = f"from 0 (all) to codebook_size={self.codebook_size}"
            raise ValueError(f"num_candidates={self.num_candidates} must be {limits}")
        if self.candidate_budget is not None and self.candidate_budget < 1:
            raise ValueError(f"candidate_budget={self.candidate_budget} must be at least 1")

    @property
    def tries_all(self) -> bool:
        """Whether every codeword is tried on every hypothesis, so that no pre-selector is needed."""
        return self.candidate_budget is None and self.num_candidates in (0, self.codebook_size)

    @property
    def pairs_per_vector(self) -> int:
        """Network evaluations per vector and step, once the beam is full."""
        all_pairs = self.beam_size * (self.num_candidates or self.codebook_size)
        return all_pairs if self.candidate_budget is None else self.candidate_budget

    def record(self) -> dict[str, int | None]:
        """The options that give this search, as `Codec.encode` takes them; None for what it does not use."""
        return {
            "beam_size": self.beam_size,
            "num_candidates": self.num_candidates if self.candidate_budget is None else None,
            "candidate_budget": self.candidate_budget,
        }

    def for_step(self, *, first_of_list: bool, last: bool) -> "Search":
        """The search of a step with a network; `first_of_list`: of an IVF model's first one."""
        return self.for_last_step() if last else self.for_one_hypothesis() if first_of_list else self

    def for_last_step(self) -> "Search":
        """The same search where one hypothesis is kept: a quarter of the budget finds it (benchmarks/RESULTS.md)."""
        budget = self.candidate_budget
        return self if budget is None else replace(self, candidate_budget=min(budget, max(budget // 4, 16)))

    def narrowed(self) -> "Search":
        """With a quarter of the beam, and of the candidates over it: about a quarter of the evaluations.

        Of a search that tries all codewords (QINCo1) it is that of the 4 which a pre-selector names.
        """
        budget, candidates = self.candidate_budget, self.num_candidates
        return replace(
            self,
            beam_size=max(1, self.beam_size // 4),
            num_candidates=min(_NARROW_CANDIDATES, self.codebook_size) if self.tries_all else candidates,
            candidate_budget=None if budget is None else max(1, budget // 4),
        )

    def for_one_hypothesis(self) -> "Search":
        """The same search where the beam holds one hypothesis yet: enough candidates to fill it."""
        if self.num_candidates == 0:
            return self
        return replace(self, num_candidates=min(max(self.num_candidates, self.beam_size), self.codebook_size))


def checked_num_steps(num_steps: int | None, limit: int) -> int:
    """How many codes are asked for; None: all. Raises ValueError outside of 1 to `limit`."""
    if num_steps is not None and not 1 <= num_steps <= limit:
        raise ValueError(f"num_steps={num_steps}: this model has {limit} steps, give 1 to {limit}")
    return limit if num_steps is None else num_steps
