"""A killed run, resumed, ends where the uninterrupted one ends: bit for bit."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from qinco_lit.cli import main
from tests.training.conftest import Start

EPOCHS = 3


@pytest.fixture
def uninterrupted(small: list[str], tmp_path: Path) -> Path:
    run_dir = tmp_path / "whole"
    assert main(["train", *small, f"trainer.max_epochs={EPOCHS}", f"hydra.run.dir={run_dir}"]) == 0
    return run_dir


def _last_step(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return max((row["step"] for row in rows if "train/mse" in row), default=0)


def _kill_in_mid_epoch(process: "subprocess.Popen[str]", run_dir: Path, number: int, step: int) -> str:
    deadline = time.monotonic() + 120
    while _last_step(run_dir) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    return process.communicate(timeout=60)[0]


def _weights(run_dir: Path) -> bytes:
    return (run_dir / "codec" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("number", "step", "every_s", "code"),
    [
        (signal.SIGKILL, 40, 0.0, -9),  # in the second epoch; the checkpoint is one of a moment before
        (signal.SIGTERM, 8, 600.0, 130),  # in the first, between two splits
        (signal.SIGINT, 70, 600.0, 130),
    ],
)
def test_resumed_equals_uninterrupted(
    number: int, step: int, every_s: float, code: int, uninterrupted: Path, start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "killed"
    options = [f"trainer.max_epochs={EPOCHS}", f"hydra.run.dir={run_dir}", "trainer.log_every_n_steps=1"]
    process = start(*options, f"trainer.checkpoint_every_s={every_s}")
    output = _kill_in_mid_epoch(process, run_dir, number, step)
    assert process.returncode == code, output
    assert "Traceback" not in output
    assert not (run_dir / "codec").exists(), "the run ended before it was killed"
    rows_before = (run_dir / "metrics.jsonl").read_text()

    resumed = start(f"resume={run_dir}", defaults=False)
    output = resumed.communicate(timeout=120)[0]
    assert resumed.returncode == 0, output
    assert _weights(run_dir) == _weights(uninterrupted)
    assert (run_dir / "metrics.jsonl").read_text().startswith(rows_before)  # nothing logged is lost
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["state"] == "finished"
    assert summary["epochs"] == EPOCHS
    assert not (tmp_path / "outputs").exists()  # no new folder


def test_interrupted_run_says_how_to_go_on(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "killed"
    process = start("trainer.max_epochs=50", f"hydra.run.dir={run_dir}", "trainer.log_every_n_steps=1")
    output = _kill_in_mid_epoch(process, run_dir, signal.SIGTERM, 3)
    assert f"qinco train resume={run_dir}" in output
    assert json.loads((run_dir / "summary.json").read_text())["state"] == "interrupted"


def test_a_finished_run_can_be_prolonged(uninterrupted: Path, tmp_path: Path) -> None:
    assert main(["train", f"resume={uninterrupted}", f"trainer.max_epochs={EPOCHS + 1}"]) == 0
    assert json.loads((uninterrupted / "summary.json").read_text())["epochs"] == EPOCHS + 1


def test_resume_without_a_checkpoint_is_one_line(uninterrupted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (uninterrupted / "checkpoints" / "last.ckpt").unlink()
    capfd.readouterr()
    assert main(["train", f"resume={uninterrupted}"]) == 2
    assert "cannot resume" in capfd.readouterr().err
