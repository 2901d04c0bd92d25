"""W&B, offline: one run per job, readable back, a failed job marked, a resumed one continued."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import Start


def _read(run_dir: Path) -> list[dict[str, Any]]:
    """What W&B's own reader finds in every offline run of a folder."""
    found = []
    for file in sorted((run_dir / "wandb").glob("offline-run-*/*.wandb")):
        wandb = Path(sys.executable).with_name("wandb")
        out = subprocess.run(
            [wandb, "leet", "inspect", "--summary", "--json", str(file)], capture_output=True, text=True, check=True
        )
        found.append({"id": file.stem.removeprefix("run-"), **json.loads(out.stdout)})
    return found


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.mark.usefixtures("offline")
def test_two_jobs_of_a_sweep_are_two_runs(start: Start, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    process = start(
        "-m", "model.beam_size=1,2", "logger=wandb", "logger.tags=[a,b]", "trainer.max_epochs=1",
        f"hydra.sweep.dir={sweep}",
    )  # fmt: skip
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert "login" not in output.lower()
    runs = [run for job in ("0", "1") for run in _read(sweep / job)]
    assert len({run["id"] for run in runs}) == len(runs) == 2
    for beam, run in zip((1, 2), runs, strict=True):
        assert run["exit_code"] == 0
        text = json.dumps(run)
        assert '"model.beam_size"' in text  # flat plain values
        job = json.loads((sweep / str(beam - 1) / "summary.json").read_text())
        assert job["wandb_id"] == run["id"]
        assert run["summary"]["val/mse"]["min"] == pytest.approx(job["best_val_mse"], rel=1e-6)


def test_disabled_by_the_environment(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_dir = tmp_path / "run"
    process = start("logger=wandb", "trainer.max_epochs=1", f"hydra.run.dir={run_dir}")
    assert process.communicate(timeout=240)[0] is not None
    assert process.returncode == 0
    assert not list(run_dir.glob("wandb/*run-*"))


@pytest.mark.usefixtures("offline")
def test_failed_job_shows_as_failed_and_keeps_its_id_when_resumed(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(
        "logger=wandb", "recipe.lr=1e30", "recipe.clip_value=null", "recipe.warmup_epochs=0", "trainer.max_epochs=2",
        "trainer.checkpoint_every_s=0", f"hydra.run.dir={run_dir}",
    )  # fmt: skip
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 2, output
    (run,) = _read(run_dir)
    assert run["exit_code"] == 1
    process = start(f"resume={run_dir}", "recipe.lr=1e-3", defaults=False)
    process.communicate(timeout=240)
    ids = {run["id"] for run in _read(run_dir)}
    assert len(ids) == 1


def test_online_without_a_login_is_one_line(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))  # no saved login
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    process = start("logger=wandb", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path / 'run'}")
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 2
    (line,) = output.strip().splitlines()
    assert line.startswith("qinco: error: W&B in mode online: ")
    assert line.endswith("(logger.mode=offline needs no login)")
    assert not (tmp_path / "run").exists()
