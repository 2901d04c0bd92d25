"""How the C library treats the memory of intermediate results."""

from functools import cache

import torch

# glibc's largest adaptive threshold is 32 MiB: a block just below that, its header included, raises the threshold it
_BLOCK_BYTES = (32 << 20) - (16 << 10)


@cache
def keep_freed_memory() -> None:
    """Make glibc keep freed blocks of up to 32 MiB for the next allocation instead of giving them back.

    By default a block of a few hundred KiB is returned to the system when freed, and every intermediate result pays
    for fresh zeroed pages: 7 % of encoding with QINCo2-S, more in larger chunks. Freeing one large block, which is
    never touched, raises both of glibc's thresholds for the life of the process (at most 64 MiB stay reserved); other
    C libraries do not mind.
    """
    torch.empty(_BLOCK_BYTES, dtype=torch.uint8)
