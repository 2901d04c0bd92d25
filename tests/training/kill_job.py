"""A training in a process of its own, stopped at a chosen moment: jobs of test_killed.py and test_resume.py."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qinco_lit.cli import main
from qinco_lit.training import checkpoints, job
from qinco_lit.training.module import QuantizerTraining
from qinco_lit.training.run_log import RunRecord


def stopped_at_step(arguments: list[str], number: int, step: int) -> int:
    """`qinco train`, which gets a signal as this step of all begins; its exit status."""
    before = QuantizerTraining.on_train_batch_start

    def stop(self: QuantizerTraining, batch: object, batch_idx: int) -> None:
        before(self, batch, batch_idx)
        if self.trainer.global_step == step:
            os.kill(os.getpid(), number)

    QuantizerTraining.on_train_batch_start = stop  # type: ignore[method-assign]
    return main(["train", *arguments])


def run(arguments: list[str], moments_path: Path, kill_at: int) -> None:
    """`qinco train`; every moment at which it might be killed is a byte of a file, and at number `kill_at` it is."""

    def moment() -> None:
        with moments_path.open("ab") as file:
            file.write(b".")
        if moments_path.stat().st_size == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            moment()
            value = original(*args, **options)
            moment()
            return value

        setattr(owner, name, call)

    around(QuantizerTraining, "training_step")
    around(QuantizerTraining, "on_validation_epoch_end")  # the model is compared and kept after it
    around(QuantizerTraining, "on_train_epoch_end")
    around(checkpoints, "write_checkpoint")
    around(checkpoints.torch, "save")  # the file is whole, and not under its name yet
    around(job, "_write_codec")
    around(RunRecord, "end")
    code = main(["train", *arguments])
    if code:
        raise SystemExit(code)
