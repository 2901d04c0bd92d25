"""Shards of rows in, codes out: what Lightning's `Trainer.predict` runs on every rank."""

import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Integer, Shaped
from pytorch_lightning import LightningModule
from torch import Tensor

from qinco_lit.arrays import AssignLists
from qinco_lit.codec import Codec
from qinco_lit.encoding.shards import ShardFolder
from qinco_lit.quantizers.chunks import BLOCK_ROWS
from qinco_lit.vectors import VectorFile
from qinco_lit.vectors.code_info import CodeInfo, StoredRows
from qinco_lit.vectors.vector_file import read_ahead


class Batch(NamedTuple):
    """Rows of the input from one shard, starting at a whole block (`BLOCK_ROWS`) of it: so chunks are the same ones."""

    shard: int
    x: Shaped[Tensor, "batch dim"]


class EncodedBatch(NamedTuple):
    """The codes of a batch on the codec's device, where they may not have been computed yet."""

    shard: int
    codes: Integer[Tensor, "batch steps"]
    list_ids: Integer[Tensor, " batch"] | None

    @property
    def num_rows(self) -> int:
        """Vectors of the batch."""
        return len(self.codes)

    def stored(self, info: CodeInfo) -> StoredRows:
        """Wait for the device; what goes into the shard's file."""
        list_ids = None if self.list_ids is None else self.list_ids.cpu().numpy()
        return StoredRows(info.stored(self.codes.cpu().numpy()), list_ids)


class ShardLoader:
    """Batches of the shards that this rank has to do, one shard after the other, read ahead in a thread.

    Args:
        vectors: (num_rows, dim) rows.
        info: how they are cut into shards.
        shards: those to read.
        batch_size: rows of a batch, in whole blocks.
        pin_memory: rows in memory that a GPU reads by itself.
    """

    def __init__(
        self, vectors: VectorFile, info: CodeInfo, shards: list[int], batch_size: int, *, pin_memory: bool = False
    ) -> None:
        self._vectors, self._info, self._shards, self._pin_memory = vectors, info, shards, pin_memory
        self._step = max(1, batch_size // BLOCK_ROWS) * BLOCK_ROWS

    def __len__(self) -> int:
        return sum(1 for _ in self._pieces())

    def __iter__(self) -> Iterator[Batch]:
        with closing(read_ahead(self._read, self._pieces())) as batches:
            yield from batches

    def _pieces(self) -> Iterator[tuple[int, int, int]]:
        for shard in self._shards:
            first, last = self._info.shard_range(shard)
            for start in range(first, last, self._step):
                yield shard, start, min(start + self._step, last)

    def _read(self, piece: tuple[int, int, int]) -> Batch:
        shard, start, stop = piece
        rows = self._vectors[start:stop]
        _check_finite(rows, start, self._vectors)
        x = torch.from_numpy(rows)
        return Batch(shard, x.pin_memory() if self._pin_memory else x)


class Encoding(LightningModule):
    """Encodes the unfinished shards of a folder.

    Args:
        codec: on the rank's device.
        vectors: (num_rows, dim) rows.
        folder: of the shards.
        search: keyword arguments of `Codec.encode`.
        batch_size: rows read and moved to the device at once, in whole blocks.
        num_threads: of torch on the CPU; None leaves them.
        assign_lists: of an IVF codec, the lists of raw rows; None: the codec finds them by brute force.

    Attributes:
        shards: what this rank has to do; known when the loader has been made.
    """

    def __init__(
        self,
        codec: Codec,
        vectors: VectorFile,
        folder: ShardFolder,
        *,
        search: Mapping[str, Any],
        batch_size: int,
        num_threads: int | None,
        assign_lists: AssignLists | None = None,
    ) -> None:
        super().__init__()
        # Lightning's: a rank may find that all of its shards are finished
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.codec, self.vectors, self.folder = codec, vectors, folder
        self._search, self._batch_size, self._num_threads = search, batch_size, num_threads
        self._assign_lists = assign_lists
        self.shards: list[int] = []

    def predict_dataloader(self) -> ShardLoader:
        """Batches of this rank's unfinished shards; the finished ones are compared with their checksums here."""
        warnings.filterwarnings("ignore", message="Total length of `ShardLoader`")  # nothing is left to do for a rank
        self.shards = self.folder.unfinished(self.trainer.global_rank, self.trainer.world_size)
        on_gpu = self.codec.device.type == "cuda"
        return ShardLoader(self.vectors, self.folder.info, self.shards, self._batch_size, pin_memory=on_gpu)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Leave the rows to the codec, which checks them in main memory: of a GPU it would have to await the answer."""
        return batch

    def on_predict_start(self) -> None:
        """Let SIGTERM stop the work as Ctrl-C does, where Lightning would only make a note of it."""
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)

    def predict_step(self, batch: Batch) -> EncodedBatch:
        """Encode a batch; a GPU is not waited for, so that it has the next batch when this one ends."""
        if self.codec.num_lists is None:
            return EncodedBatch(batch.shard, self.codec.encode(batch.x, **self._search), None)
        list_ids = None
        if self._assign_lists is not None:
            list_ids = torch.cat([self._assign_lists(x) for x in torch.split(batch.x, BLOCK_ROWS)])
        list_ids, codes = self.codec.encode(batch.x, list_ids=list_ids, **self._search)
        return EncodedBatch(batch.shard, codes, list_ids)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise KeyboardInterrupt(signal.Signals(number).name)


def _check_finite(rows: Shaped[np.ndarray, "n dim"], first_row: int, vectors: VectorFile) -> None:
    if rows.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(rows.astype(np.float32, copy=False)).all(axis=1)
    if bad.any():
        row = vectors.row_name(first_row + int(bad.argmax()))
        raise ValueError(f"{row} holds NaN or infinity (as float32): repair or remove it")
