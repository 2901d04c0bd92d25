"""Two trainings in one folder: the second is refused; what a killed one has left is removed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qinco_lit.cli import main
from qinco_lit.run_folder import LOCK, only_process
from qinco_lit.training.run_folder import only_trainer
from qinco_lit.training.run_log import merged_overrides

_HOLD = "import fcntl,sys,time; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
_HOLD += "print('held', flush=True); time.sleep(600)"


def test_the_second_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with only_trainer(tmp_path):
        with pytest.raises(ValueError) as refusal, only_trainer(tmp_path):
            pass
        assert str(refusal.value) == (
            f"{tmp_path}: another process works in this folder; wait for it, or give hydra.run.dir=DIR"
        )
    with only_trainer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path / LOCK)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process works"), only_trainer(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    with only_trainer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), only_trainer(tmp_path / "run"):
        raise OSError("full")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_of_a_training_that_ends_meanwhile_is_not_taken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one removes its file after this one has opened it, and before it is locked."""
    opened: list[int] = []
    original = os.open

    def open_(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = original(path, flags, mode)
        if not opened:
            Path(path).unlink()
        opened.append(descriptor)
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr("qinco_lit.locks.os.open", open_)
        with only_trainer(tmp_path):
            assert len(opened) == 2
            with pytest.raises(ValueError, match="another process"), only_trainer(tmp_path):
                pass


def test_training_holds_its_folder(
    small: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    names: set[str] = set()
    original = torch.save

    def save(checkpoint: object, file: object) -> None:
        names.update(path.name for path in (run_dir / "checkpoints").iterdir())
        original(checkpoint, file)  # type: ignore[arg-type]

    monkeypatch.setattr("qinco_lit.training.checkpoints.torch.save", save)
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / ".last.ckpt.0123456789ab.tmp").write_text("of a killed process")
    assert main(["train", *small, "trainer.max_epochs=1", f"hydra.run.dir={run_dir}"]) == 0
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert not (run_dir / LOCK).exists()
    temporary = [name for name in names if name.startswith(".last.ckpt.")]
    assert len(temporary) == 2  # each of a name that no other process writes to
    others = ["resume=", "overwrite=true hydra.run.dir=", "hydra.run.dir="]
    for other in (f"{options}{run_dir}".split() for options in others):
        before = contents(run_dir)
        capfd.readouterr()
        with only_process(run_dir):
            started = [] if other[0].startswith("resume=") else small
            assert main(["train", *started, *other, "trainer.max_epochs=2"]) == 2
        assert contents(run_dir) == before
        assert "another process works in this folder" in capfd.readouterr().err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_training_is_replaced_only_by_one_who_means_it(
    small: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    again = ["train", *small, f"hydra.run.dir={run_dir}", "trainer.max_epochs=1"]
    assert main([*again, "trainer.log_every_n_steps=1"]) == 0
    (run_dir / "evaluation").mkdir()
    (run_dir / "evaluation" / "metrics.json").write_text("of the user")
    before = contents(run_dir)
    capfd.readouterr()
    assert main([*again, "seed=1"]) == 2
    assert capfd.readouterr().err == (
        f"qinco: error: {run_dir} holds a training: go on with it by resume={run_dir}, name another folder by "
        "hydra.run.dir=DIR, or remove what it has made by overwrite=true\n"
    )
    assert main([*again, "overwrite=true", "data.train=gone.fvecs"]) == 2
    capfd.readouterr()
    assert contents(run_dir) == before

    assert main([*again, "seed=1", "overwrite=true"]) == 0
    alone = tmp_path / "alone"
    assert main([*again, "seed=1", f"hydra.run.dir={alone}"]) == 0
    after, expected = contents(run_dir), contents(alone)
    assert set(after) == {*expected, "evaluation/metrics.json"}
    for name in ("codec/weights.safetensors", ".hydra/config.yaml"):
        assert after[name] == expected[name]
    assert after["metrics.jsonl"].count(b"\n") == expected["metrics.jsonl"].count(b"\n")
    assert b"overwrite" not in after["config.json"]  # it is no option of the run
    assert "overwrite=true" not in json.loads(after["summary.json"])["overrides"]
    (run_dir / "checkpoints" / "last.ckpt").unlink()
    assert main([*again, "seed=1"]) == 2
    assert capfd.readouterr().err.endswith(
        f"{run_dir} holds a training: name another folder by hydra.run.dir=DIR, or remove what it has made by "
        "overwrite=true\n"
    )


def test_what_a_training_without_a_checkpoint_has_left_is_not_gone_on_with(small: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / ".hydra").mkdir(parents=True)
    (run_dir / ".hydra" / "config.yaml").write_text("seed: 7")
    (run_dir / "metrics.jsonl").write_text("of a training that failed\n")
    (run_dir / "summary.json").write_text('{"state": "failed", "reason": "x", "wall_s": 1e6}')
    assert main(["train", *small, f"hydra.run.dir={run_dir}", "trainer.max_epochs=1"]) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["state"], summary["reason"], summary["wall_s"] < 1e6) == ("finished", None, True)
    assert "failed" not in (run_dir / "metrics.jsonl").read_text()
    assert "seed: 0" in (run_dir / ".hydra" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        (["a=1", "b.c=2"], ["d=4"], ["a=1", "b.c=2", "d=4"]),
        (["a=1", "b.c=2"], ["a=5"], ["a=5", "b.c=2"]),
        (["+a.b=1"], ["a.b=2"], ["+a.b=2"]),
        (["++a.b=1"], ["a.b=2"], ["++a.b=2"]),
        (["+a.b=1"], ["~a.b"], ["~a.b"]),
        (["a=1"], ["a='x=y'", "ab=3"], ["a='x=y'", "ab=3"]),
    ],
)
def test_overrides_are_merged_by_their_key(earlier: list[str], later: list[str], merged: list[str]) -> None:
    assert merged_overrides(earlier, later) == merged


def test_a_damaged_checkpoint_is_one_line_and_stays(
    small: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    assert main(["train", *small, "trainer.max_epochs=1", f"hydra.run.dir={run_dir}"]) == 0
    last = run_dir / "checkpoints" / "last.ckpt"
    damaged = last.read_bytes()[:-100]
    last.write_bytes(damaged)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file() and path.suffix != ".log"}
    capfd.readouterr()
    assert main(["train", f"resume={run_dir}", "trainer.max_epochs=2"]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("qinco: error:")]
    assert line.endswith(f"{last} is damaged; restore it, or begin in another folder")
    assert {path: path.read_bytes() for path in before} == before
