"""How many cores a computation uses: faiss and torch each have a setting of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import torch


def num_threads_in_use() -> dict[str, int]:
    """Of torch and of faiss."""
    return {"torch": torch.get_num_threads(), "faiss": int(faiss.omp_get_max_threads())}


@contextmanager
def threads(num_threads: int | None) -> Iterator[None]:
    """Let torch and faiss use this many threads inside the block; None leaves theirs."""
    before = torch.get_num_threads(), int(faiss.omp_get_max_threads())
    if num_threads is None or before == (num_threads, num_threads):
        yield
        return
    try:
        torch.set_num_threads(num_threads)
        faiss.omp_set_num_threads(num_threads)
        yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
