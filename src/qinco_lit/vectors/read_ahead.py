"""Read the next piece of a file while the caller works with this one."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def read_ahead(read: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Generator[Result, None, None]:
    """Yield read(piece) in order, the next one being read in a thread while the caller works with this one.

    An exception inside `read` is raised here, at its place in the order. Closing the iterator waits for a read or two.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as pool:
        waiting: Future[Result] | None = None
        for piece in pieces:
            submitted = pool.submit(read, piece)
            if waiting is not None:
                yield waiting.result()
            waiting = submitted
        if waiting is not None:
            yield waiting.result()
