"""Which vectors are searched, assigned to lists or decoded together, so that what they need stays in bounded memory."""

from collections.abc import Iterator
from functools import cache

import torch

from qinco_lit.quantizers.beam import Search
from qinco_lit.quantizers.precision import num_finalists

# Chunks are counted anew from every multiple of this many rows, so that what a row becomes does not depend on how a
# file was cut into pieces that begin there: the rounding of a matrix product may depend on how many rows it has.
BLOCK_ROWS = 16_384

# Candidates evaluated together on a CPU. In float32 some 1000 rows of a matrix product stay in a core's cache (twice
# the speed of 4096); in half precision the product takes so little time that longer operations count for more.
# Measured on two cores, and the same for any number of them.
_PAIRS = 2048
_HALF_PAIRS = 8192
_FIRST_SCORES_BYTES = 64 << 20  # of the scores of the first codebook, which may have 65,536 rows
_WORKSPACE_BYTES_GPU = 1 << 30
_BLOCK_BYTES = 64 << 20  # of what is made of the rows that are decoded, or assigned to lists, together
TRAINED_ROWS = 128  # of a batch go through the steps and back together on a CPU: more would leave cores without work
_DECODED_ROWS = 4096  # on a CPU: decoding is fastest from 1,024 to 4,096 rows a core, and for few cores the latter

# glibc's largest adaptive threshold is 32 MiB: a block just below that, its header included, raises the threshold to
# its own size
_FREED_BYTES = (32 << 20) - (16 << 10)


def chunks(num_rows: int, rows: int) -> Iterator[tuple[int, int]]:
    """The ranges (start, stop) that so many rows are computed in, each by itself and in any order.

    They depend on no number of threads, and on nothing before the last multiple of `BLOCK_ROWS`.

    Args:
        num_rows: rows in all.
        rows: of a chunk at most, at least 1.
    """
    for block in range(0, num_rows, BLOCK_ROWS):
        end = min(block + BLOCK_ROWS, num_rows)
        for start in range(block, end, rows):
            yield start, min(start + rows, end)


def searched_rows(
    search: Search,
    workspace_bytes: int | None,
    device: torch.device,
    *,
    widths: tuple[int, int, int],
    scores_first: bool,
    half_precision: bool,
) -> int:
    """How many vectors are searched together: those whose intermediate results fit the workspace, at least one.

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
        fast = (_HALF_PAIRS if half_precision else _PAIRS) // pairs
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


def decoded_rows(workspace_bytes: int | None, device: torch.device, *, widths: tuple[int, int, int]) -> int:
    """How many vectors are decoded together; the arguments are those of `searched_rows`."""
    dim, embed_dim, hidden_dim = widths
    row_bytes = 4 * (4 * dim + 3 * embed_dim + 2 * hidden_dim)
    if device.type == "cpu":
        return min(_fitting(workspace_bytes, row_bytes), _DECODED_ROWS)
    return max(1, (workspace_bytes or _WORKSPACE_BYTES_GPU) // row_bytes)


def assigned_rows(workspace_bytes: int | None, dim: int) -> int:
    """How many vectors of `dim` dimensions find their lists together."""
    return _fitting(workspace_bytes, 4 * 2 * dim)


def _fitting(workspace_bytes: int | None, row_bytes: int) -> int:
    return max(1, min(workspace_bytes or _BLOCK_BYTES, _BLOCK_BYTES) // row_bytes)


@cache
def keep_freed_memory() -> None:
    """Make glibc keep freed blocks of up to 32 MiB for the next allocation instead of giving them back.

    By default a block of a few hundred KiB is returned to the system when freed, and every intermediate result pays
    for fresh zeroed pages: 7 % of encoding with QINCo2-S, more in larger chunks. Freeing one large block, which is
    never touched, raises both of glibc's thresholds for the life of the process (at most 64 MiB stay reserved); other
    C libraries do not mind.
    """
    torch.empty(_FREED_BYTES, dtype=torch.uint8)
