"""Command lines of sweeps, in this process; and trainings that take a second, in processes of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qinco_lit import cli
from tests.cli.conftest import qinco, refused

__all__ = ["qinco", "refused"]

Run = Callable[[dict[str, Any], Path], float | None]
Calls = list[tuple[dict[str, Any], Path]]

REPOSITORY = Path(__file__).parents[2]
SWEEPS = REPOSITORY / "sweeps"
TINY = [
    "data=files", "data.train=train.npy", "data.num_val=100", "model.num_steps=2", "model.codebook_size=16",
    "model.embed_dim=8", "model.hidden_dim=16", "model.num_candidates=4", "model.beam_size=2", "recipe.batch_size=100",
    "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false",
]  # fmt: skip


@pytest.fixture
def vectors(tmp_path: Path) -> None:
    """train.npy in the folder of the test."""
    rows = np.random.default_rng(0).normal(size=(700, 8)).astype(np.float32)
    np.save(tmp_path / "train.npy", rows)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Run], Calls]]:
    """Replace the work of `train`, which is checked as ever; return the list of the calls it gets."""

    def replace(run: Run) -> Calls:
        calls: Calls = []

        def recorded(config: dict[str, Any], run_dir: Path) -> float | None:
            calls.append((config, run_dir))
            return run(config, run_dir)

        real = cli.JOBS["train"]
        monkeypatch.setitem(cli.JOBS, "train", cli.Job("", real.check, recorded))
        return calls

    return replace
