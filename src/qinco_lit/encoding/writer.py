"""The other end of the pipeline: codes into shards, in a thread of its own; and how many rows are done."""

import os
import queue
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from qinco_lit.encoding.module import EncodedBatch, Encoding
from qinco_lit.encoding.shards import ShardFolder
from qinco_lit.progress import Progress

_MAX_WAITING = 4  # batches of codes between the encoder and the disk
_LOOK_EVERY_S = 1.0  # at what other ranks have finished


class _AbandonedError(Exception):
    """The encoder has stopped in the middle of a shard."""


class RowsDone:
    """Rows done by all ranks, as the first one shows them: its own, and the shards that others have finished.

    Args:
        folder: of the shards.
        progress: that shows them.
        work: what is done, in a word.
    """

    def __init__(self, folder: ShardFolder, progress: Progress, work: str = "encoding") -> None:
        self._folder, self._progress, self._work = folder, progress, work
        self._own: set[int] = set()
        self._own_rows = self._other_rows = 0
        self._looked = time.monotonic()

    def start(self, own_shards: list[int]) -> None:
        """Start the clock: what is finished now is not this run's work. `own_shards` are what the first rank does."""
        self._own = set(own_shards)
        self._look()
        if self._other_rows:
            self._progress.note(f"{self._other_rows:,} rows are finished already")
        self._progress.start(self._work, self._folder.info.num_rows, done=self._other_rows)

    def advance(self, rows: int = 0) -> None:
        """Count rows that the first rank has done."""
        self._own_rows += rows
        if time.monotonic() - self._looked > _LOOK_EVERY_S:
            self._look()
        self._progress.reach(self._own_rows + self._other_rows)

    def _look(self) -> None:
        self._looked = time.monotonic()
        self._other_rows = self._folder.num_rows(self._folder.finished() - self._own)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


class WriteShards(Callback):
    """Writes each rank's shards while the next ones are encoded, and shows progress on the first rank.

    It is told at every batch whether another rank has failed, or whether the process that started this rank is gone.
    """

    def __init__(self, folder: ShardFolder, progress: RowsDone) -> None:
        self._folder, self._progress = folder, progress
        self._queue: queue.Queue[EncodedBatch | None] = queue.Queue(_MAX_WAITING)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write-shards")
        self._work: Future[None] | None = None
        self._parent = os.getppid()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the thread."""
        assert isinstance(pl_module, Encoding)
        self._work = self._pool.submit(self._write, pl_module.shards)
        if trainer.is_global_zero:
            self._progress.start(pl_module.shards)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        *_: Any,
    ) -> None:
        """Hand a batch over; raises what went wrong in the thread or in another rank."""
        assert isinstance(outputs, EncodedBatch)
        self._put(outputs)
        self._folder.check_failure()
        if not trainer.is_global_zero and os.getppid() != self._parent:
            raise ChildProcessError(f"rank {trainer.global_rank} stops: the process that started it is gone")
        if trainer.is_global_zero:
            self._progress.advance(outputs.num_rows)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Wait until all is written."""
        assert self._work is not None
        self._work.result()
        self._pool.shutdown()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Give the unfinished shard up."""
        self._progress.stop()
        if self._work is not None:
            while not self._work.done():
                try:
                    self._queue.put(None, timeout=0.1)
                    break
                except queue.Full:
                    continue
        self._pool.shutdown()

    def _put(self, batch: EncodedBatch) -> None:
        assert self._work is not None
        while True:
            if self._work.done():
                self._work.result()
            try:
                self._queue.put(batch, timeout=1)
                return
            except queue.Full:
                continue

    def _write(self, shards: list[int]) -> None:
        for shard in shards:
            start, stop = self._folder.info.shard_range(shard)
            with self._folder.writing(shard) as writer:
                while start < stop:
                    batch = self._queue.get()
                    if batch is None:
                        raise _AbandonedError
                    assert batch.shard == shard
                    writer.append(batch.stored(self._folder.info))
                    start += batch.num_rows
