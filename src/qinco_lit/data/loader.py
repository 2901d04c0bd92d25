"""Loaders: rows of a file as batches of tensors, read ahead in a thread while earlier batches are consumed."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import accumulate
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from qinco_lit.data.order import GivenBlocks, StreamOrder
from qinco_lit.vectors.vector_file import read_ahead

_log = logging.getLogger(__name__)

WINDOW_BYTES = 32 * 2**20  # rows shuffled together; up to three windows are in memory: consumed, ready, being read
BLOCK_BYTES = 128 * 2**10  # rows read contiguously: large enough for disks and network file systems
# Rows that a file gives in groups (Parquet) are shuffled with those of so many groups, as far as they are no larger.
WINDOW_GROUPS, MAX_WINDOW_BYTES = 8, 256 * 2**20
_DECODERS = 2  # of groups at a time; `vectors.many` keeps so many tables open

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@runtime_checkable
class Rows(Protocol):
    """What a loader reads from: a VectorFile, a row range of one, or a numpy array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored type of the components."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Shaped[np.ndarray, "rows dim"]: ...


def _empty_rows(rows: int, vectors: Rows, *, pin_memory: bool) -> Tensor:
    """Return an uninitialised (rows, dim) tensor of the stored type."""
    dtype = torch.from_numpy(np.empty(0, vectors.dtype)).dtype
    return torch.empty((rows, vectors.shape[1]), dtype=dtype, pin_memory=pin_memory)


def _opaque_rows(rows: Shaped[np.ndarray, "rows dim"]) -> Shaped[np.ndarray, " rows"]:
    """View every row as one opaque item, which numpy scatters faster than rows of components."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]


class StreamLoader:
    """Endless stream of shuffled training batches for one rank, cut into epochs of `len(loader)` batches.

    Iterating yields the next `len(loader)` batches of the stream, tensors (batch, dim) in the stored type; the next
    iteration goes on where this one stopped. `state_dict` is a few integers, the same on every rank; Lightning
    stores it in checkpoints, and a loader that was given it yields exactly the batches that would have followed.

    Args:
        vectors: (num_rows, dim) training rows.
        batch_size: rows per batch and rank.
        epoch_size: rows per epoch over all ranks, at most one pass; see `StreamOrder`.
        seed: of the order.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
        num_unfinished: tells how many of the batches handed out are still in work; a checkpoint written in the middle
            of a step then repeats that step's batch.
        pin_memory: batches lie in pinned memory, for a GPU to fetch; a job on the CPU would open a context with it.

    Raises:
        ValueError: fewer rows than one batch on every rank.
    """

    def __init__(
        self,
        vectors: Rows,
        *,
        batch_size: int,
        epoch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_unfinished: Callable[[], int] = lambda: 0,
        pin_memory: bool = False,
    ) -> None:
        row_bytes = vectors.shape[1] * vectors.dtype.itemsize
        block_rows, window_rows = min(max(BLOCK_BYTES // row_bytes, 32), 1024), max(WINDOW_BYTES // row_bytes, 1)
        blocks, groups = None, getattr(vectors, "row_groups", None)
        if groups is not None:
            blocks = GivenBlocks(groups, block_rows)
            several, most = WINDOW_GROUPS * len(vectors) // len(blocks), MAX_WINDOW_BYTES // row_bytes
            window_rows = max(window_rows, min(several, most))
            if groups.max() > window_rows:
                _log.warning(
                    "%s: row groups of up to %s rows, of which %s are shuffled together: write it with smaller ones",
                    getattr(vectors, "path", "training rows"), f"{groups.max():,}", f"{window_rows:,}",
                )  # fmt: skip
        self.vectors = vectors
        self.rank = rank
        self._num_unfinished, self._pin_memory = num_unfinished, pin_memory
        self.order = StreamOrder(
            num_rows=len(vectors),
            batch_size=batch_size,
            epoch_size=epoch_size,
            seed=seed,
            world_size=world_size,
            block_rows=block_rows,
            window_rows=window_rows,
            blocks=blocks,
        )
        # Batches handed out since the first epoch. Counted before the yield: code after the last one of an epoch may
        # never run.
        self._delivered = 0

    def __len__(self) -> int:
        return self.order.batches_per_epoch

    def __iter__(self) -> Iterator[Tensor]:
        # A generator starts working at the first next(): Lightning calls iter() more often than it reads.
        pieces = self._pieces(self._delivered, self._delivered + len(self))
        with closing(read_ahead(self._read, pieces)) as windows:
            for batches in windows:
                for batch in batches:
                    self._delivered += 1
                    yield batch

    def state_dict(self) -> dict[str, int]:
        """Return (epoch, batch) of the next batch to work on and the numbers that the order depends on."""
        epoch, batch = divmod(self._delivered - self._num_unfinished(), len(self))
        return {"epoch": epoch, "batch": batch, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a position saved by `state_dict`.

        Raises:
            ValueError: the state belongs to another order, for instance another batch size or number of devices.
        """
        own = self._identity()
        for key in dict.fromkeys([*own, *state]):
            if key not in ("epoch", "batch") and state.get(key) != own.get(key):
                raise ValueError(
                    f"cannot resume: the checkpoint was made with {key}={state.get(key)}, this run has"
                    f" {key}={own.get(key)}; resume with the same {key}"
                )
        self._delivered = state["epoch"] * len(self) + state["batch"]

    def _identity(self) -> dict[str, int]:
        order = self.order
        return {
            "seed": order.seed,
            "num_rows": order.num_rows,
            "batch_size": order.batch_size,
            "epoch_size": min(order.epoch_size, order.num_rows),
            "world_size": order.world_size,
            **({} if order.blocks is None else {"num_row_groups": len(order.blocks)}),
        }

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (epoch, window, first batch, last batch in the window) for the batches [first, last) of the stream."""
        per_epoch, per_window = self.order.batches_per_epoch, self.order.batches_per_window
        while first < last:
            epoch, batch = divmod(first, per_epoch)
            window, skip = divmod(batch, per_window)
            count = min(per_window - skip, per_epoch - batch, last - first)
            yield epoch, window, skip, skip + count
            first += count

    def _read(self, piece: tuple[int, int, int, int]) -> tuple[Tensor, ...]:
        epoch, window, skip, stop = piece
        slots = self.order.slots(epoch, window, self.rank)
        shuffled = _empty_rows(len(slots), self.vectors, pin_memory=self._pin_memory)
        target, segments = _opaque_rows(shuffled.numpy()), self.order.segments(epoch, window, self.rank)
        stops = list(accumulate(end - start for start, end in segments))

        def scatter(segment: tuple[int, int], stop: int) -> None:
            start, end = segment
            target[slots[stop - (end - start) : stop]] = _opaque_rows(self.vectors[start:end])

        if self.order.blocks is None:
            for each in zip(segments, stops, strict=True):
                scatter(*each)
        else:  # decoding takes longer than a thread has for it
            with ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode") as pool:
                list(pool.map(scatter, segments, stops))
        size = self.order.batch_size
        return tuple(shuffled[batch * size : (batch + 1) * size] for batch in range(skip, stop))


class SequentialLoader:
    """Rows in file order: this rank's contiguous share, in batches of at most `batch_size`, equal but for one row.

    Every rank gets the same number of batches, and the shares of all ranks are the whole.

    Args:
        vectors: (num_rows, dim) rows.
        batch_size: largest batch.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
        pin_memory: as of `StreamLoader`.

    Raises:
        ValueError: fewer rows than ranks, or a batch size below 1.
    """

    def __init__(
        self, vectors: Rows, *, batch_size: int, rank: int = 0, world_size: int = 1, pin_memory: bool = False
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give at least 1")
        if len(vectors) < world_size:
            raise ValueError(
                f"{len(vectors)} rows cannot be shared by {world_size} devices: give at least {world_size}"
            )
        self.vectors = vectors
        self.rank = rank
        self.world_size = world_size
        self._pin_memory = pin_memory
        self._num_batches = -(-len(vectors) // (world_size * batch_size))

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Tensor]:
        first = self.rank * self._num_batches
        with closing(read_ahead(self._read, range(first, first + self._num_batches))) as batches:
            yield from batches

    def _read(self, index: int) -> Tensor:
        total = self.world_size * self._num_batches
        start, stop = (len(self.vectors) * i // total for i in (index, index + 1))
        batch = _empty_rows(stop - start, self.vectors, pin_memory=self._pin_memory)
        batch.numpy()[:] = self.vectors[start:stop]
        return batch
