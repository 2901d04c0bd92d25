"""One training in a run folder: at a time, and after another one only if the user means it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from qinco_lit.run_folder import check_unused, only_process, take_record
from qinco_lit.training.run_log import read_summary

_LEFT = ("checkpoints", "codec", "metrics.jsonl", "summary.json", "config.json")
_REMOVED = (*_LEFT, "coarse", "wandb", "wandb.json")  # what k-means has found goes on, of the same vectors and options


@contextmanager
def only_trainer(run_dir: Path, *, resume: bool = True, overwrite: bool = False) -> Iterator[None]:
    """Hold the run folder inside the block, in which the training begins, or goes on: what may be refused has been.

    The first rank holds it for all, by a lock that ends with the process, however that ends; where the file system
    knows no locks, nobody is refused. Half-written checkpoints of a killed process are removed, and of a training that
    begins anew all that is left of an earlier one; what was typed for this one takes its place.

    Raises:
        ValueError: another process works in this folder, or see `check_folder`.
    """
    if not is_first():
        yield
        return
    with only_process(run_dir):
        _check_left(run_dir, resume=resume, overwrite=overwrite)
        for left in (run_dir / "checkpoints").glob(".*.ckpt.*.tmp"):
            left.unlink(missing_ok=True)
        if not resume:
            _clear(run_dir, _REMOVED if overwrite else _LEFT)
        take_record(run_dir)
        yield


def check_folder(run_dir: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that is not free for a training, before anything is made or changed.

    Raises:
        ValueError: another process works in it; or, without `resume` or `overwrite`, it holds a training that is
            finished or can go on.
    """
    if is_first():
        check_unused(run_dir)
        _check_left(run_dir, resume=resume, overwrite=overwrite)


def is_first() -> bool:
    """Whether this process is the first, or only one, of its training."""
    return not getattr(rank_zero_only, "rank", 0)


def _check_left(run_dir: Path, *, resume: bool, overwrite: bool) -> None:
    if resume or overwrite:
        return
    can_go_on = (run_dir / "checkpoints" / "last.ckpt").is_file()
    if can_go_on or (run_dir / "codec").is_dir() or read_summary(run_dir).get("state") == "finished":
        go_on = f"go on with it by resume={run_dir}, " if can_go_on else ""
        raise ValueError(
            f"{run_dir} holds a training: {go_on}name another folder by hydra.run.dir=DIR, or remove what it has made "
            "by overwrite=true"
        )


def _clear(run_dir: Path, names: tuple[str, ...]) -> None:
    for path in (run_dir / name for name in names):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
