"""A pre-selector for a model that was trained without one."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qinco_lit.quantizers.beam import Pairs
from qinco_lit.quantizers.qinco import QINCo


@torch.no_grad()
def fit_preselectors(
    quantizer: QINCo, x: Float[Tensor, "rows dim"], list_ids: Int[Tensor, " rows"] | None = None
) -> None:
    """Give every step the pre-selector S_m[i] = mean over x of f_m(C_m[i], x_hat_{m-1}), in place.

    What a codeword adds depends on the reconstruction so far, but mostly on the codeword: its mean names the candidates
    well enough that 16 to 32 of 256 need the network (benchmarks/RESULTS.md). The model's own search stays what it was.

    Args:
        quantizer: its networks stay as they are; pre-selectors it has are replaced.
        x: vectors in normalised space; one or two thousand do.
        list_ids: of an IVF model; None finds them.
    """
    tables = quantizer.tables()
    codes = quantizer.encode(x, quantizer.search_for(num_candidates=0), list_ids=list_ids, tables=tables)
    every = torch.arange(quantizer.codebook_size, device=x.device)
    search = quantizer.search_for(num_candidates=0, beam_size=1)
    rows = quantizer.vectors_per_chunk(search, None, x.device)
    reconstructions = quantizer.reconstructions(codes[:, :-1])
    for step, table, x_hat in zip(quantizer.residual_steps(), tables, reconstructions, strict=True):
        total = torch.zeros_like(step.codebook, dtype=torch.float64)
        for part in torch.split(x_hat, rows):
            context = table.exact.weights.hypothesis_terms(part)
            pairs = Pairs(None, every.expand(len(part), -1))
            added, _ = table.evaluate(table.exact, context, torch.zeros_like(part)[:, None], pairs)
            total += added.view(len(part), *total.shape).sum(0)
        step.preselector = nn.Parameter((total / len(x)).to(step.codebook.dtype), step.codebook.requires_grad)
    quantizer.config["preselector"] = True
