"""SIGKILL at any moment, then resume: the run folder cannot be told from that of a run that was never interrupted."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qinco_lit.vectors import write_vectors
from tests import processes
from tests.training.conftest import SMALL, clustered
from tests.training.kill_job import run

_TIMES = ("time_s", "vectors_per_s")
_RESULTS = ("state", "epochs", "steps", "best_val_mse", "best_epoch", "last_metrics", "parameters")
_NEVER = -1
_FEW = ["data.num_val=64", "recipe.batch_size=64", "recipe.replay_after=2", "trainer.log_every_n_steps=3"]
_OFTEN = "trainer.checkpoint_every_s=0"
_SETTINGS = {
    "paper": ["recipe=paper", "recipe.lr=1e-3", "recipe.warmup_epochs=1", "trainer.max_epochs=3"],
    # the rate falls after two epochs without gain, and one more ends the training
    "plateau": [
        "recipe.schedule=plateau", "recipe.plateau_epochs=1", "recipe.patience_epochs=3", "recipe.lr=3e-2",
        "trainer.max_epochs=5",
    ],
    "inside epochs": [_OFTEN, "+trainer.val_check_interval=2", "trainer.max_epochs=2"],
    "accumulated": [
        _OFTEN, "+trainer.accumulate_grad_batches=2", "+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3",
    ],
    "float16": [_OFTEN, "trainer.precision=16-mixed", "trainer.accelerator=cpu", "trainer.max_epochs=2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("few")
    write_vectors(folder / "train.fvecs", clustered(5 * 64 + 64))
    return [*SMALL, *_FEW, f"data.train={folder / 'train.fvecs'}", f"data_dir={folder / 'data'}"]


def _process(arguments: Sequence[str], moments_path: Path, kill_at: int) -> int:
    """Exit status of a training in a process that has the imports of this one, and none of its threads."""
    return processes.run(run, list(arguments), moments_path, kill_at, cwd=moments_path.parent)[0]


def _results(run_dir: Path) -> dict[str, Any]:
    summary = json.loads((run_dir / "summary.json").read_text())
    rows = [_without_times(json.loads(line)) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    files = ["codec/weights.safetensors", "codec/config.json", "checkpoints/best.ckpt"]
    return {
        **{name: (run_dir / name).read_bytes() for name in files},
        "metrics": rows,
        "best": _without_times(summary["best_metrics"]),
        "summary": {name: summary[name] for name in _RESULTS},
    }


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _TIMES}


@pytest.mark.parametrize("setting", _SETTINGS)
def test_a_killed_run_ends_as_the_one_that_was_not(setting: str, options: list[str], tmp_path: Path) -> None:
    given = [*options, *_SETTINGS[setting]]
    whole = tmp_path / "whole"
    assert _process([*given, f"hydra.run.dir={whole}"], tmp_path / "moments", _NEVER) == 0
    expected, moments = _results(whole), (tmp_path / "moments").stat().st_size
    assert moments > 40

    def killed(kill_at: int) -> dict[str, Any]:
        run_dir = tmp_path / f"killed-{kill_at}"
        assert _process([*given, f"hydra.run.dir={run_dir}"], tmp_path / f"moments-{kill_at}", kill_at) == -9
        assert _process([f"resume={run_dir}"], tmp_path / f"moments-{kill_at}", _NEVER) == 0
        assert [path.name for path in (run_dir / "checkpoints").iterdir() if path.suffix == ".tmp"] == []
        return _results(run_dir)

    # some before the first checkpoint; QINCO_KILLS says how many, for a closer look
    chosen = range(1, moments + 1, moments // int(os.environ.get("QINCO_KILLS", "3")))
    with ThreadPoolExecutor(2) as pool:
        for kill_at, found in zip(chosen, pool.map(killed, chosen), strict=True):
            for name, value in expected.items():
                assert found[name] == value, f"killed at {kill_at} of {moments}: {name}"
