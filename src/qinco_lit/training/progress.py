"""What a training says while it runs: reports to the loggers, a bar or lines on the terminal."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from qinco_lit.progress import Progress
from qinco_lit.training.module import QuantizerTraining


class Reporter(Callback):
    """Sends train metrics to the loggers and shows progress.

    What the loggers get depends on the batches alone, never on the clock: `log_every_n_steps` steps make a report, and
    so does the end of an epoch. 0 steps: nothing but that.
    """

    def __init__(self, *, show: bool, line_every_s: float = 10.0) -> None:
        self._show = show
        self._line_every_s = line_every_s
        self._progress = Progress("steps", show=show)
        self._line_at = 0.0
        self._since, self._batches = 0.0, 0  # the time of the last report, and the batches after it
        self._last: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        assert isinstance(pl_module, QuantizerTraining)
        self._since = self._line_at = time.monotonic()
        self._batches = 0
        self._show = self._show and trainer.is_global_zero
        self._progress = Progress("steps", show=self._show, line_every_s=self._line_every_s)
        self._progress.start("training", pl_module.num_steps_in_all, done=trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Report every `log_every_n_steps` steps and at the end of an epoch."""
        assert isinstance(pl_module, QuantizerTraining)
        self._batches += 1
        every, last = trainer.log_every_n_steps, trainer.is_last_batch  # type: ignore[attr-defined]
        stepped = last or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if last or (every and stepped and trainer.global_step % every == 0):
            self._report(trainer, pl_module)
        if not self._show:
            return
        if self._batches and time.monotonic() - self._line_at > self._line_every_s:
            self._last |= self._so_far(trainer, pl_module)
            self._line_at = time.monotonic()
        line = self._line(trainer, batch_idx)
        self._progress.reach(trainer.global_step, what=line)
        if last and not self._progress.has_bar:
            self._progress.note(line)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the batches of an epoch that ended early."""
        assert isinstance(pl_module, QuantizerTraining)
        if self._batches:
            self._report(trainer, pl_module)

    def _report(self, trainer: Trainer, pl_module: QuantizerTraining) -> None:
        metrics = self._so_far(trainer, pl_module)
        pl_module.forget_train_error()
        self._last |= metrics
        self._since, self._batches = time.monotonic(), 0
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _so_far(self, trainer: Trainer, pl_module: QuantizerTraining) -> dict[str, float]:
        vectors = self._batches * pl_module.recipe.batch_size * trainer.world_size
        seconds = max(time.monotonic() - self._since, 1e-9)
        metrics = pl_module.train_report()
        return metrics | {"vectors_per_s": vectors / seconds, "epochs_seen": pl_module.epochs_seen}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Say so: a line that comes now is not of the training's last batch."""
        if trainer.state.fn == "validate":  # of a baseline, or of a training that ended between two
            self._progress.start("validation", None)
        else:
            self._progress.reach(trainer.global_step, what="validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the epoch's validation error; validation time does not count as training speed."""
        assert isinstance(pl_module, QuantizerTraining)
        self._since, self._batches, self._line_at = time.monotonic(), 0, time.monotonic()
        if self._show and trainer.is_global_zero and not trainer.sanity_checking:
            mse, entropy = (pl_module.validation[f"val/{name}"] for name in ("mse", "entropy_bits"))
            where = f"step {trainer.global_step}"  # of a training that ended between two validations
            if pl_module.baseline is not None:
                where = f"{pl_module.baseline.upper()} of the training vectors"
            elif trainer.state.fn == "fit":
                where = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            text = f"{where}: validation MSE {mse:,.6g}, code entropy {entropy:.2f} bits"
            self._progress.note(text)

    def _line(self, trainer: Trainer, batch_idx: int) -> str:
        batch = f"batch {batch_idx + 1}/{int(trainer.num_training_batches)}"
        where = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} · {batch}"
        if not self._last:  # nothing was measured yet
            return where
        return f"{where} · {self._last['vectors_per_s']:,.0f} vectors/s · MSE {self._last['train/mse']:,.6g}"

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """As `teardown`, which Lightning leaves out then."""
        self._progress.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Leave the terminal as it was."""
        self._progress.stop()
