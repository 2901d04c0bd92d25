"""The other end of the pipeline: codes into shards, in a thread of its own."""

import os
import queue
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from qinco_lit.encoding.module import EncodedBatch, Encoding
from qinco_lit.encoding.progress import Progress
from qinco_lit.encoding.shards import ShardFolder

_MAX_WAITING = 4  # batches of codes between the encoder and the disk


class _AbandonedError(Exception):
    """The encoder has stopped in the middle of a shard."""


class WriteShards(Callback):
    """Writes each rank's shards while the next ones are encoded, and shows progress on the first rank.

    It is told at every batch whether another rank has failed, or whether the process that started this rank is gone.
    """

    def __init__(self, folder: ShardFolder, progress: Progress) -> None:
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
