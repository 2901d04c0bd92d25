"""What happens around the training loop: a resumable checkpoint, clean interruption, progress."""

import logging
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from qinco_lit.atomic import replacing
from qinco_lit.training.module import QuantizerTraining

log = logging.getLogger(__name__)


class TrainingInterruptedError(Exception):
    """A signal ended the training between two batches, after a checkpoint was written.

    Attributes:
        signal_number: SIGINT or SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number


class LastCheckpoint(Callback):
    """Keeps `last.ckpt`: after every epoch, every `every_s` seconds, and when SIGINT or SIGTERM arrives.

    A signal is acted on between two batches, so that the checkpoint is a state the uninterrupted run passes through;
    a second signal ends the process at once. The file is replaced only when the new one is complete.
    """

    def __init__(self, path: Path, *, every_s: float) -> None:
        self._path = path
        self._every_s = every_s
        self._saved_at = time.monotonic()
        self._signal = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Take over the two signals."""
        self._saved_at = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._signal = number
        signal.signal(number, signal.SIG_DFL)
        log.warning("%s: saving a checkpoint after this batch (again: quit now)", signal.Signals(number).name)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save when it is time or when a signal came; then stop."""
        number = self._signal
        if trainer.world_size > 1:
            # all ranks stop at the same batch; asking at every one would cost a round trip each
            asked = trainer.global_step % 10 == 0
            flag = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(flag, reduce_op="sum")) if asked else 0
            number = signal.SIGTERM if number else 0
        if number or time.monotonic() - self._saved_at > self._every_s:
            self._save(trainer)
        if number:
            raise TrainingInterruptedError(number)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Save the finished epoch."""
        self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _save(self, trainer: Trainer) -> None:
        self._saved_at = time.monotonic()
        if not trainer.is_global_zero:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(self._path) as temporary, temporary.open("wb") as file:
                torch.save(trainer._checkpoint_connector.dump_checkpoint(), file)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError about its file format
            reason = error.strerror if isinstance(error, OSError) else "the disk is full or failing"
            kept = "; the checkpoint before it is kept" if self._path.exists() else ""
            raise OSError(f"could not write the checkpoint {self._path}: {reason}{kept}") from error


class Reporter(Callback):
    """Sends train metrics to the loggers and shows progress: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, *, show: bool, line_every_s: float = 15.0) -> None:
        self._show = show
        self._line_every_s = line_every_s
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._marks = (0.0, 0, 0.0)  # time and step of the last report, time of the last line
        self._last: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the clock and, on a terminal, the bar."""
        now = time.monotonic()
        self._marks = (now, trainer.global_step, now)
        if self._show and trainer.is_global_zero and sys.stderr.isatty():
            from rich.console import Console

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("training", total=self._total(trainer), completed=trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Report every `log_every_n_steps` batches and at the end of an epoch."""
        last = trainer.is_last_batch
        if trainer.global_step % trainer.log_every_n_steps == 0 or last:  # type: ignore[attr-defined]
            self._report(trainer, pl_module)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step, description=self._line(trainer))
        elif self._show and trainer.is_global_zero and (last or time.monotonic() - self._marks[2] > self._line_every_s):
            self._report(trainer, pl_module)
            self._marks = (*self._marks[:2], time.monotonic())
            log.info(self._line(trainer))

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, QuantizerTraining)
        now, step = time.monotonic(), trainer.global_step
        batches = step - self._marks[1]
        if batches == 0:
            return
        vectors = batches * pl_module.recipe.batch_size * trainer.world_size
        metrics = pl_module.train_report()
        metrics |= {
            "vectors_per_s": vectors / (now - self._marks[0]),
            "epochs_seen": step / trainer.num_training_batches,
        }
        self._last |= metrics
        self._marks = (now, step, self._marks[2])
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Show the epoch's validation error; validation time does not count as training speed."""
        self._last |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._marks = (time.monotonic(), trainer.global_step, time.monotonic())
        if self._show and trainer.is_global_zero and trainer.state.fn == "fit":
            mse, entropy = self._last["val/mse"], self._last["val/entropy_bits"]
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            text = f"{epoch}: validation MSE {mse:,.6g}, code entropy {entropy:.2f} bits"
            if self._bar is not None:
                self._bar.console.print(text)
            else:
                log.info(text)

    def _line(self, trainer: Trainer) -> str:
        speed, mse = self._last.get("vectors_per_s", 0.0), self._last.get("train/mse", float("nan"))
        batches = int(trainer.num_training_batches)
        epoch, batch = divmod(trainer.global_step - 1, batches) if trainer.global_step else (0, -1)
        where = f"epoch {epoch + 1}/{trainer.max_epochs} · batch {batch + 1}/{batches}"
        return f"{where} · {speed:,.0f} vectors/s · MSE {mse:,.6g}"

    def _total(self, trainer: Trainer) -> int:
        return int(trainer.num_training_batches) * (trainer.max_epochs or 1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
