"""The order in which training rows stream from a file: a pure function of (seed, epoch, batch, rank).

An endless stream of positions q = 0, 1, 2, … walks through the file again and again; pass q // num_rows visits every
row once. A pass cuts the circle of rows into contiguous blocks, from a random first row, and permutes the blocks; where
a file gives its rows in groups (Parquet), these are the blocks. Epoch e covers the next `epoch_rows` positions. Inside
an epoch, positions are dealt out in windows: each rank takes a contiguous part, reads it block by block and shuffles it
in memory. Rows of an unfinished pass follow in the next epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64, UInt32

# The first word of every seed sequence, so that the two kinds of draws never share a generator.
_PASS_DRAWS = 0
_WINDOW_DRAWS = 1


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


@lru_cache(maxsize=2)
def _block_order(
    seed: int, pass_index: int, num_rows: int, block_rows: int
) -> tuple[int, UInt32[np.ndarray, " blocks"]]:
    """Return the first row of a pass and the order of its full blocks: 4 MB for 10^6 blocks, kept for two passes."""
    generator = _generator(_PASS_DRAWS, seed, pass_index)
    first_row = int(generator.integers(num_rows))
    return first_row, generator.permutation(np.arange(num_rows // block_rows, dtype=np.uint32))


class GivenBlocks:
    """Blocks of the sizes that a file has them in; holds two numbers for each.

    Args:
        sizes: rows of each, in the order of the file.
        least: rows of a block at the least; smaller ones that follow each other are one.
    """

    def __init__(self, sizes: Int64[np.ndarray, " groups"], least: int) -> None:
        stops, last = [], 0
        for stop in np.cumsum(sizes).tolist():
            if stop - last >= least:
                stops.append(stop)
                last = stop
        if stops and last < sizes.sum():  # what is left at the end belongs to the last one
            stops.pop()
        self.stops = np.array([*stops, *([sizes.sum()] if last < sizes.sum() else [])], dtype=np.int64)
        self.starts = np.concatenate([[0], self.stops[:-1]])

    def __len__(self) -> int:
        return len(self.stops)

    def ranges(self, seed: int, pass_index: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the rows at positions [start, stop) of a pass as contiguous ranges, at most one block each."""
        order, ends = _permuted(self, seed, pass_index)
        slot = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            block, end = order[slot], min(stop, int(ends[slot]))
            row = int(self.stops[block]) - (int(ends[slot]) - start)
            yield row, row + end - start
            start, slot = end, slot + 1


@lru_cache(maxsize=2)
def _permuted(
    blocks: GivenBlocks, seed: int, pass_index: int
) -> tuple[Int64[np.ndarray, " blocks"], Int64[np.ndarray, " blocks"]]:
    """Return the order of the blocks in a pass, and the position where each of them ends there."""
    order = _generator(_PASS_DRAWS, seed, pass_index).permutation(len(blocks))
    return order, np.cumsum((blocks.stops - blocks.starts)[order])


@dataclass(frozen=True)
class StreamOrder:
    """Order of the training rows for all ranks and epochs; holds numbers only, whatever the size of the file.

    Args:
        num_rows: rows of the training set.
        batch_size: rows per batch and rank.
        epoch_size: rows per epoch, all ranks together; at most one pass, rounded down to whole batches on every rank.
        seed: of every draw, >= 0.
        world_size: number of ranks.
        block_rows: rows read contiguously.
        window_rows: rows shuffled together by one rank; rounded to whole batches, at least one.
        blocks: that the rows are read in, of `num_rows` together, instead of blocks of `block_rows`.

    Raises:
        ValueError: a number out of range, or fewer rows than one batch on every rank.
    """

    num_rows: int
    batch_size: int
    epoch_size: int
    seed: int = 0
    world_size: int = 1
    block_rows: int = 1024
    window_rows: int = 262_144
    blocks: GivenBlocks | None = None

    def __post_init__(self) -> None:
        for name in ("num_rows", "batch_size", "epoch_size", "world_size", "block_rows", "window_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: give 0 or more")
        if self.batches_per_epoch == 0:
            rows = min(self.epoch_size, self.num_rows)
            devices = "1 device" if self.world_size == 1 else f"{self.world_size} devices"
            raise ValueError(
                f"batch_size={self.batch_size} on {devices} needs {self.batch_size * self.world_size} rows,"
                f" an epoch has {rows}: lower the batch size to {max(1, rows // self.world_size)} or less"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Batches that every rank sees in an epoch."""
        return min(self.epoch_size, self.num_rows) // (self.batch_size * self.world_size)

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch, all ranks together."""
        return self.batches_per_epoch * self.batch_size * self.world_size

    @property
    def batches_per_window(self) -> int:
        """Batches in every window of an epoch but the last, which may be shorter."""
        return min(max(1, self.window_rows // self.batch_size), self.batches_per_epoch)

    def segments(self, epoch: int, window: int, rank: int) -> list[tuple[int, int]]:
        """Return the row ranges [start, stop) that a rank reads for one window, in stream order."""
        rows = self._window_batches(window) * self.batch_size
        window_start = epoch * self.epoch_rows + window * self.batches_per_window * self.batch_size * self.world_size
        return list(self._row_ranges(window_start + rank * rows, window_start + (rank + 1) * rows))

    def slots(self, epoch: int, window: int, rank: int) -> Int64[np.ndarray, " rows"]:
        """Return, for each row of `segments` in turn, its place in the shuffled window; batches are slices of that."""
        return _generator(_WINDOW_DRAWS, self.seed, epoch, window, rank).permutation(
            self._window_batches(window) * self.batch_size
        )

    def batch_rows(self, epoch: int, batch: int, rank: int = 0) -> Int64[np.ndarray, " batch"]:
        """Return the row numbers of one batch; the definition of the order, slower than streaming it."""
        window, inside = divmod(batch, self.batches_per_window)
        stream = np.concatenate([np.arange(start, stop) for start, stop in self.segments(epoch, window, rank)])
        shuffled = np.empty_like(stream)
        shuffled[self.slots(epoch, window, rank)] = stream
        return shuffled[inside * self.batch_size : (inside + 1) * self.batch_size]

    def _window_batches(self, window: int) -> int:
        return min(self.batches_per_window, self.batches_per_epoch - window * self.batches_per_window)

    def _row_ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the rows at stream positions [start, stop) as contiguous ranges, at most one block each."""
        while start < stop:
            pass_index, offset = divmod(start, self.num_rows)
            if self.blocks is not None:
                count = min(self.num_rows - offset, stop - start)
                yield from self.blocks.ranges(self.seed, pass_index, offset, offset + count)
                start += count
                continue
            first_row, blocks = _block_order(self.seed, pass_index, self.num_rows, self.block_rows)
            slot, inside = divmod(offset, self.block_rows)
            # The ragged block stays last; the pass's random first row makes it another part of the file each time.
            block = int(blocks[slot]) if slot < len(blocks) else slot
            count = min(self.block_rows - inside, self.num_rows - offset, stop - start)
            row = (first_row + block * self.block_rows + inside) % self.num_rows
            before_wrap = min(count, self.num_rows - row)
            yield row, row + before_wrap
            if before_wrap < count:
                yield 0, count - before_wrap
            start += count
