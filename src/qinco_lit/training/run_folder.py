"""One training at a time in a run folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

LOCK = ".lock"


@contextmanager
def only_trainer(run_dir: Path) -> Iterator[None]:
    """Hold the run folder inside the block; checkpoints that a killed process has left half-written are removed.

    The first rank holds it for all, by a lock on `RUN_DIR/.lock` that ends with the process, however that ends. Where
    the file system knows no locks, nobody is refused.

    Raises:
        ValueError: another process trains in this folder.
    """
    if getattr(rank_zero_only, "rank", 0):
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    file = run_dir / LOCK
    descriptor = _locked(file)
    try:
        for left in (run_dir / "checkpoints").glob(".*.ckpt.*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(file: Path) -> int:
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(
                f"{file.parent}: another process trains in this folder; wait for it, or give hydra.run.dir=DIR"
            ) from None
        except OSError:  # no locks here
            return descriptor
        try:
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # of a training that has just ended, and removed it
