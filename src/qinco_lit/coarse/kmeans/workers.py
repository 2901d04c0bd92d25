"""Blocks of rows on several threads, each block computed by one: its result does not depend on how many there are."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar, runtime_checkable

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@runtime_checkable
class Watch(Protocol):
    """What is told how far the work is."""

    def start(self, what: str, num_rows: int) -> None:
        """A pass over so many rows begins."""

    def advance(self, num_rows: int) -> None:
        """So many more rows of the pass are done."""


class Unwatched:
    """Nobody is told."""

    def start(self, what: str, num_rows: int) -> None:
        """Nothing happens."""

    def advance(self, num_rows: int) -> None:
        """Nothing happens."""


class Workers:
    """Threads that each compute with one core; while they exist, torch's own threads are one.

    On a GPU there is one worker: the products of a block fill the device.
    """

    def __init__(self, num_threads: int, device: torch.device) -> None:
        self.num_threads = num_threads if device.type == "cpu" else 1
        self.device = device

    def __str__(self) -> str:
        return f"{self.num_threads} threads" if self.device.type == "cpu" else str(self.device)

    def __enter__(self) -> "Workers":
        self._torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(
            self.num_threads, thread_name_prefix="k-means", initializer=torch.set_num_threads, initargs=(1,)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._torch_threads)

    def in_order(self, work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Result]]:
        """Yield each piece and work(piece), in order; few pieces more than there are threads are held."""
        waiting: deque[tuple[Piece, Future[Result]]] = deque()
        for piece in pieces:
            waiting.append((piece, self._pool.submit(work, piece)))
            if len(waiting) > self.num_threads:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
