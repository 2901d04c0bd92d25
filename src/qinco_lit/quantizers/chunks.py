"""How many vectors are searched together."""

import torch

from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.precision import num_finalists

# Candidates evaluated together on a CPU. In float32 some 1000 rows of a matrix product stay in a core's cache (twice
# the speed of 4096); in half precision the product takes so little time that longer operations count for more.
# Measured on two cores, and the same for any number: the rounding of a product may depend on its size, and codes
# should not depend on a machine's cores. A GPU wants many more.
_ROWS = 2048
_HALF_ROWS = 8192
_FIRST_SCORES_BYTES = 64 << 20  # of the scores of the first codebook, which may have 65,536 rows
_WORKSPACE_BYTES_GPU = 1 << 30


def vectors_per_chunk(
    search: Search,
    workspace_bytes: int | None,
    device: torch.device,
    *,
    widths: tuple[int, int, int],
    scores_first: bool,
    half_precision: bool,
) -> int:
    """How many vectors a chunk has: those whose intermediate results fit the workspace, at least one.

    Args:
        search: which and how many pairs are evaluated.
        workspace_bytes: None: what runs fast on the device.
        device: where.
        widths: dim, embed_dim and hidden_dim of the model.
        scores_first: whether a first plain codebook is searched (models without lists).
        half_precision: whether candidates are scored in 16 bits; so are all but the best, where there are many.
    """
    dim, embed_dim, hidden_dim = widths
    pairs, codebook_size = search.pairs_per_vector, search.codebook_size
    if workspace_bytes is None and device.type == "cpu":
        fast = (_HALF_ROWS if half_precision else _ROWS) // pairs
        if scores_first:
            fast = min(fast, _FIRST_SCORES_BYTES // (4 * codebook_size))
        return max(1, fast)
    # few pairs are evaluated in float32 at once (`ResidualStep.search`); a CPU's products make float32 copies
    halved = half_precision and device.type != "cpu" and pairs > 2 * num_finalists(search.beam_size)
    item_bytes = 2 if halved else 4
    # per pair: stream, hidden and codeword of both halves, added; the difference is float32
    row_bytes = item_bytes * (3 * embed_dim + 2 * hidden_dim + 2 * dim) + 4 * dim
    per_vector = pairs * row_bytes + 4 * search.beam_size * (2 * codebook_size + 3 * dim)
    return max(1, (workspace_bytes or _WORKSPACE_BYTES_GPU) // per_vector)
