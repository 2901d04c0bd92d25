"""W&B, offline: one run per job, readable back, told apart, with its end and its best epoch; a resumed one goes on."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from qinco_lit.run_folder import best_epoch
from qinco_lit.training.wandb_run import artifact_name, flatten
from tests.training.conftest import Start
from tests.training.wandb_files import read_records, read_runs


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)


def _summary(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return content


@pytest.mark.usefixtures("offline")
def test_two_jobs_of_a_sweep_are_two_runs(start: Start, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    process = start(
        "-m", "model.beam_size=1,2", "logger=wandb", "logger.tags=[a,b]", "trainer.max_epochs=2",
        "logger.log_codec=true", f"hydra.sweep.dir={sweep}",
    )  # fmt: skip
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert "login" not in output.lower()
    assert "wandb" not in output.lower().replace(str(tmp_path), "").replace("logger=wandb", "")
    runs = [run for job in ("0", "1") for run in read_runs(sweep / job)]
    assert len({run["id"] for run in runs}) == len(runs) == 2
    for beam, run in zip((1, 2), runs, strict=True):
        job, kept = _summary(sweep / str(beam - 1)), sweep / str(beam - 1)
        assert (run["exit_code"], run["summary"]["state"]) == (0, "finished")
        assert run["config"]["model.beam_size"] == beam  # flat plain values
        assert run["config"]["choices.data"] == "files"
        assert not any(key.startswith("logger.") for key in run["config"])
        assert f"beam_size={beam}" in run["name"]
        assert run["tags"] == ["qinco2", "files", "a", "b"]
        assert job["wandb_id"] == run["id"] == json.loads((kept / "wandb.json").read_text())["id"]
        best = best_epoch(kept / "metrics.jsonl")
        assert job["best_metrics"] == best
        assert best["val/mse"] == pytest.approx(job["best_val_mse"], rel=1e-6)
        assert run["summary"]["val/mse"]["min"] == pytest.approx(best["val/mse"], rel=1e-6)
        for name in ("mse", "mse_step_1", "mse_step_3", "entropy_bits"):
            assert run["summary"][f"best/{name}"] == pytest.approx(best[f"val/{name}"], rel=1e-6)
        for name in ("best_epoch", "wall_s", "parameters", "epochs"):
            assert run["summary"][name] == job[name]
        records = read_records(kept)
        (opened,) = [record["run"] for record in records if record["type"] == "run"]
        assert (opened["run_group"], opened["job_type"], opened["project"]) == ("sweep", "train", "qinco_lit")
        (artifact,) = [record["artifact"] for record in records if record["type"] == "artifact"]
        assert (artifact["type"], artifact["name"]) == ("codec", artifact_name(run["name"], run["id"]))
        files = {entry["path"] for entry in artifact["manifest"]["contents"]}
        assert files == {"config.json", "weights.safetensors"}


def test_disabled_by_the_environment(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_dir = tmp_path / "run"
    process = start("logger=wandb", "logger.log_codec=true", "trainer.max_epochs=1", f"hydra.run.dir={run_dir}")
    assert process.communicate(timeout=240)[0] is not None
    assert process.returncode == 0
    assert not list(run_dir.glob("wandb/*run-*"))


@pytest.mark.usefixtures("offline")
def test_failed_job_shows_as_failed_and_keeps_its_id_when_resumed(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start(
        "logger=wandb", "recipe.lr=1e30", "recipe.clip_value=null", "recipe.warmup_epochs=0", "trainer.max_epochs=2",
        "trainer.checkpoint_every_s=0", "logger.group=g", f"hydra.run.dir={run_dir}",
    )  # fmt: skip
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 2, output
    (run,) = read_runs(run_dir)
    assert (run["exit_code"], run["summary"]["state"]) == (1, "failed")
    assert run["summary"]["reason"] == _summary(run_dir)["reason"]
    assert output.splitlines()[-1] == f"qinco: error: {run['summary']['reason']}"
    process = start(f"resume={run_dir}", "recipe.lr=1e-3", defaults=False)
    process.communicate(timeout=240)
    runs = read_runs(run_dir)
    assert len(runs) == 2
    assert {(run["id"], run["name"], tuple(run["tags"])) for run in runs} == {
        (run["id"], run["name"], ("qinco2", "files"))
    }


@pytest.mark.usefixtures("offline")
def test_a_run_that_an_agent_ends_is_interrupted_not_failed(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets SIGTERM when it promises little; agents stop themselves when runs exit with errors."""
    run_dir, parameters = tmp_path / "run", tmp_path / "parameters.yaml"
    parameters.write_text("wandb_version: 1\nmodel.beam_size:\n  value: 3\n")
    environment = {"SWEEP_ID": "sweep1", "RUN_ID": "agentsrun", "SWEEP_PARAM_PATH": str(parameters)}
    for name, value in environment.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    endless = ["trainer.max_epochs=100000", "recipe.patience_epochs=100000"]
    process = start("logger=wandb", *endless, f"hydra.run.dir={run_dir}")
    until = time.monotonic() + 200
    while not (run_dir / "metrics.jsonl").is_file() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert "ended early by the W&B sweep" in output
    (run,) = read_runs(run_dir)
    assert (run["exit_code"], run["summary"]["state"]) == (255, "interrupted")
    assert _summary(run_dir)["state"] == "interrupted"
    assert run["id"] == _summary(run_dir)["wandb_id"] == "agentsrun"
    assert run["config"]["model.beam_size"] == 3


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


def test_the_best_epoch_is_the_lowest_and_of_one_step_the_last_report(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [
        {"step": 5, "train/mse": 0.1},
        {"step": 10, "epoch": 0, "val/mse": 1.0},
        {"step": 20, "epoch": 1, "val/mse": 9.0},
        {"step": 10, "epoch": 0, "val/mse": 3.0},  # trained again after a kill
        {"step": 30, "epoch": 2, "val/mse": 2.0, "val/entropy_bits": 7.5},
        {"step": 40, "epoch": 3, "val/mse": 2.5},
    ]
    path = tmp_path / "metrics.jsonl"
    assert best_epoch(path) == {}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 50, "val/m')
    assert best_epoch(path) == rows[4]


@pytest.mark.parametrize("name", ["beam_size=4 qinco2 a/b", "ä" * 300, "x" * 300, "", "."])
def test_artifact_names_are_valid_and_of_one_run(name: str) -> None:
    import re

    made = artifact_name(name, "abcd1234")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", made)
    assert made.endswith("-abcd1234")


def test_flat_keys_are_dotted() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": None}, "e": [1]}) == {"a.b.c": 1, "a.d": None, "e": [1]}
