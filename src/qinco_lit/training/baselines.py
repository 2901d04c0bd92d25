"""What a training of few vectors must beat: RQ and PQ of the same vectors.

Networks start exact: before the first step a model decodes to the sum of its codewords, and its search is an exact beam
search over them. With the codebooks of RQ it is RQ, with those of PQ, each zero outside of its sub-vector, it is PQ.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch

from qinco_lit.coarse.assignment import FrozenLists
from qinco_lit.progress import shown
from qinco_lit.quantizers import Quantizer
from qinco_lit.run_folder import BASELINES
from qinco_lit.training.recipe import Recipe
from qinco_lit.training.start import Start, set_codebooks


def baselines_of(quantizer: Quantizer, recipe: Recipe, num_rows: int) -> tuple[str, ...]:
    """Which baselines a training is measured against: none of many vectors, nor of a model that cannot be them."""
    size, part = quantizer.codebook_size, quantizer.parts[0]
    is_exact = recipe.network_init == "exact" and (part.config["outer_skip"] or part.embed_dim == part.dim)
    # faiss counts codewords in bits, and needs a vector for each
    if not is_exact or size & (size - 1) or not size <= num_rows < recipe.baselines_below_rows:
        return ()
    return BASELINES


def with_baselines(
    start: Start, names: Iterable[str], *, lists: FrozenLists | None, show_progress: bool
) -> tuple[Start, dict[str, Start]]:
    """A training's start, and those that make the model a baseline before; what they have in common is made once.

    Args:
        start: what the training starts from.
        names: of the baselines.
        lists: of an IVF model; None: a plain one.
        show_progress: of what faiss trains.
    """
    made: dict[str, torch.Tensor] = {}

    def begin(quantizer: Quantizer, rows: Any, device: torch.device) -> None:
        if made:
            quantizer.load_state_dict(made)
        else:
            start(quantizer, rows, device)

    def become(name: str, quantizer: Quantizer, rows: Any, device: torch.device) -> None:
        begin(quantizer, rows, device)
        made.update({name: value.clone() for name, value in quantizer.state_dict().items()})
        with shown(f"{name.upper()} of the training vectors", show=show_progress):
            _give_codebooks(name, quantizer, rows, lists)

    return begin, {name: partial(become, name) for name in names}


@torch.no_grad()
def _give_codebooks(baseline: str, quantizer: Quantizer, rows: Any, lists: FrozenLists | None) -> None:
    """Make a started quantizer, on the CPU, what a baseline is of the same vectors.

    Of a model in parts each part is one, of a model with lists what these leave of the vectors.
    """
    from qinco_lit.training.faiss_start import baseline_codebooks

    # in raw space, as where baselines are evaluated: rounded otherwise, k-means would end in another optimum
    x = torch.from_numpy(rows[:]).float()
    x = quantizer.rotated(x if lists is None else lists.residuals(x))
    for part, dims, own in zip(quantizer.parts, quantizer.part_slices, quantizer.sliced(x), strict=True):
        mean = np.zeros(part.dim, np.float32) if part.has_start else quantizer.data_mean[dims].numpy()
        codebooks = baseline_codebooks(baseline, own.numpy(), part.num_steps, part.codebook_size, mean=mean)
        normalised = torch.from_numpy(codebooks) / quantizer.data_std[dims]
        set_codebooks(part, normalised, noise=0.0, exact=True, generator=torch.Generator())
