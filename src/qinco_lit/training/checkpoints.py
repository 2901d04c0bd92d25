"""What of a training lies in files: the state to go on from, and the best model."""

import logging
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from qinco_lit.atomic import replacing
from qinco_lit.run_folder import BEFORE_EPOCHS
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.run_log import JsonLinesLogger

log = logging.getLogger(__name__)

_STEPS_PER_QUESTION = 20  # of several ranks, whether one was asked to stop: every answer waits for all of them


class TrainingInterruptedError(Exception):
    """A signal ended the training between two batches, after a checkpoint was written.

    Attributes:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class LastCheckpoint(Callback):
    """Keeps `last.ckpt`: before every epoch, every `every_s` seconds, when SIGINT or SIGTERM arrives, and at the end.

    It is written before a batch, when everything that follows from the one before is done: validation, `best.ckpt`,
    reports, learning rate. So each is a state that the uninterrupted run passes through, and a training that goes on
    from it cannot be told from one that was never interrupted. A second signal ends the process at once. The file is
    replaced only when the new one is complete.

    Args:
        path: of the file.
        every_s: seconds.
        reports: metrics.jsonl; what was reported after the checkpoint that a training goes on from is reported again,
            and removed before.
        ends_process: the second signal ends it at once; otherwise it is what it was before the training.
    """

    def __init__(self, path: Path, *, every_s: float, reports: JsonLinesLogger, ends_process: bool = True) -> None:
        self._path, self._every_s, self.reports, self._ends_process = path, every_s, reports, ends_process
        self._saved_at = time.monotonic()
        self._signal = 0
        self._previous: dict[int, Any] = {}
        self._reported_bytes: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """How far metrics.jsonl was written."""
        return {"reported_bytes": self.reports.size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of the checkpoint that the training goes on from."""
        self._reported_bytes = state_dict["reported_bytes"]

    def forget_later_reports(self) -> None:
        """Remove from metrics.jsonl what was reported after the last checkpoint."""
        if self._reported_bytes is not None:
            self.reports.cut(self._reported_bytes)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Take over the two signals, which only the main thread gets."""
        self.forget_later_reports()
        self._saved_at = time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signal = number
        signal.signal(number, signal.SIG_DFL if self._ends_process else self._previous[number])
        log.warning("%s: saving a checkpoint after this batch (again: quit now)", signal.Signals(number).name)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Save at the start of an epoch, when it is time, or when a signal came; then stop."""
        if batch_idx % trainer.accumulate_grad_batches:
            return  # the gradients summed so far are in no checkpoint
        number, is_due = self._signal, time.monotonic() - self._saved_at > self._every_s
        if trainer.world_size > 1:
            # all ranks save, and stop, at the same batch
            asked = trainer.global_step % _STEPS_PER_QUESTION == 0
            number, is_due = self._of_any_rank(trainer, is_due=is_due) if asked else (0, False)
        if number or batch_idx == 0 or is_due:
            self._save(trainer, pl_module)
        if number:
            raise TrainingInterruptedError(number)

    def _of_any_rank(self, trainer: Trainer, *, is_due: bool) -> tuple[int, bool]:
        flags = torch.tensor([self._signal, is_due], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flags)
        is_asked_to_stop, is_due = (flags > 0).tolist()
        return signal.SIGTERM if is_asked_to_stop else 0, is_due

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state that a longer training would go on from."""
        self._save(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        assert isinstance(pl_module, QuantizerTraining)
        pl_module.gather_replay()
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        checkpoint = trainer._checkpoint_connector.dump_checkpoint()
        between_batches(checkpoint["loops"]["fit_loop"], num_batches=int(trainer.num_training_batches))
        write_checkpoint(self._path, checkpoint)
        self._reported_bytes = self.reports.size


def between_batches(loop: dict[str, Any], *, num_batches: int) -> None:
    """Turn the counters of Lightning's loops into those of a training that has not begun its next batch.

    Lightning's own differ with the hook that they are saved in, and so does what it does again or leaves out when it
    goes on from them. These say: so many epochs done, the next one begun, so many of its batches done and none begun.
    """
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    done, in_epoch = epochs["current"]["processed"], batches["current"]["completed"]
    if epochs["current"]["ready"] == done:  # the training is at its end: its last epoch is counted already
        if in_epoch < num_batches:
            done -= 1
        else:
            in_epoch = 0
    for counts in (epochs["current"], epochs["total"]):
        counts.update(ready=done + 1, started=done + 1, processed=done, completed=done)
    for counts, value in ((batches["current"], in_epoch), (batches["total"], batches["total"]["completed"])):
        counts.update(ready=value, started=value, processed=value, completed=value)
    batches["is_last_batch"] = False


class BestModel(Callback):
    """Keeps `best.ckpt`, the model of the lowest `val/mse`, and ends a training that has not lowered its own for long.

    Args:
        path: of the file.
        patience_epochs: epochs without gain after which the training ends; gain is over other epochs, not baselines.

    Attributes:
        mse: the lowest so far, None before the first validation.
        baseline: whose that is; None: an epoch's.
        validated_step: optimizer steps before the last validation.
    """

    def __init__(self, path: Path, *, patience_epochs: int) -> None:
        self._path, self._patience = path, patience_epochs
        self._epoch = 0
        self._mse_of_epochs: float | None = None
        self.mse: float | None = None
        self.baseline: str | None = None
        self.validated_step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The lowest error, that of the epochs, which one, and the last validation's step."""
        of_epochs = {"mse_of_epochs": self._mse_of_epochs, "epoch": self._epoch}
        return {"mse": self.mse, "baseline": self.baseline, **of_epochs, "validated_step": self.validated_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best model is what lies beside the checkpoint, wherever that was moved; without it none is known."""
        if self._path.is_file():
            self.mse, self._epoch = state_dict["mse"], state_dict["epoch"]
            self.baseline = state_dict.get("baseline")  # of before there were baselines
            self._mse_of_epochs = state_dict.get("mse_of_epochs", self.mse)
            self.validated_step = state_dict["validated_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """A training that had ended for want of gain does not go on for another epoch."""
        self._stop_without_gain(trainer, trainer.current_epoch - 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, and keep the better."""
        assert isinstance(pl_module, QuantizerTraining)
        if trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        mse = pl_module.validation["val/mse"]
        if pl_module.baseline is None:
            self.validated_step = trainer.global_step
            if self._mse_of_epochs is None or mse < self._mse_of_epochs:
                self._mse_of_epochs, self._epoch = mse, trainer.current_epoch
        if self.mse is not None and mse >= self.mse:
            return
        self.mse, self.baseline = mse, pl_module.baseline
        if trainer.is_global_zero:
            epoch = trainer.current_epoch if self.baseline is None else BEFORE_EPOCHS
            facts = {"epoch": epoch, "global_step": trainer.global_step, "val/mse": mse}
            write_checkpoint(self._path, {"state_dict": pl_module.own_state(), **facts})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count the epochs since the best one."""
        self._stop_without_gain(trainer, trainer.current_epoch)

    def _stop_without_gain(self, trainer: Trainer, epoch: int) -> None:
        if self._mse_of_epochs is not None and epoch - self._epoch >= self._patience:
            trainer.should_stop = True


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. Raises OSError, in one line that names the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(dict(content), file)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError about its file format
        reason = error.strerror if isinstance(error, OSError) else "the disk is full or failing"
        kept = "; the checkpoint before it is kept" if path.exists() else ""
        raise OSError(f"could not write the checkpoint {path}: {reason}{kept}") from error
