"""The runner runs what is not done, cheapest first; goes on after anything; never mixes results of other options."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qinco_lit.reproducing.folder import locked
from qinco_lit.reproducing.runner import Stop
from qinco_lit.run_folder import LOCK
from qinco_lit.training.run_folder import only_trainer
from tests.reproduce.tiny_scale import BIG, STUB, TINY, commands, runner_of, scale_values, until


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def _states(runner):
    return {name: outcome.state for name, outcome in runner.outcomes().items()}


def _run(output, *words, **changes):
    runner = runner_of(output, *words, **changes)
    runner.run(Stop())
    return runner


def test_everything_once_in_order_of_cost(output):
    runner = _run(output)
    assert commands(output) == TINY + BIG
    assert set(_states(runner).values()) == {"done"}
    log = (output / "d/Tiny-8B-s0/train/task.log").read_text().splitlines()
    assert log == [
        f"$ qinco train data=x model=tiny seed=0 logger=none hydra.run.dir={output}/d/Tiny-8B-s0/train",
        "the stub works",
    ]
    assert runner.outcomes()["d/Tiny-8B-s0/train"].wall_s == 12.0  # the training's own count
    record = json.loads((output / "d/Tiny-8B-s0/evaluate/task.json").read_text())
    assert (record["state"], record["exit_code"]) == ("done", 0)


def test_what_is_done_is_not_run_again(output):
    _run(output)
    shutil.rmtree(output / "d/Big-8B-s0/evaluate")
    runner = _run(output)
    assert commands(output) == [*TINY, *BIG, "evaluate d/Big-8B-s0/evaluate"]
    assert set(_states(runner).values()) == {"done"}


def test_the_folder_may_be_moved(output):
    _run(output, studies=True)
    moved = output.with_name("elsewhere")
    output.rename(moved)
    assert set(_states(runner_of(moved, studies=True)).values()) == {"done"}


def test_a_choice_runs_with_what_it_needs_and_leaves_the_others(output):
    runner = _run(output, "run_time", studies=True)
    assert commands(output) == ["train d/Tiny-8B-s0/train", "evaluate d/Tiny-8B-s0/run_time/A4-B2"]
    states = _states(runner)
    assert states.pop("d/Tiny-8B-s0/train") == states.pop("d/Tiny-8B-s0/run_time/A4-B2") == "done"
    assert set(states.values()) == {"skipped"}


def test_a_failure_stops_only_what_needs_it_and_is_tried_again(output, monkeypatch):
    monkeypatch.setenv("STUB_FAILS", "d/Tiny-8B-s0/train")
    runner = _run(output)
    assert commands(output) == [TINY[0], *BIG]
    outcomes = runner.outcomes()
    log = output / "d/Tiny-8B-s0/train/task.log"
    assert outcomes["d/Tiny-8B-s0/train"].state == "failed"
    assert outcomes["d/Tiny-8B-s0/train"].reason == f"qinco: error: x is wrong (exit code 2; {log})"
    assert outcomes["d/Tiny-8B-s0/evaluate"].reason == "needs d/Tiny-8B-s0/train, which failed"
    assert runner_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == "failed at the last try"
    monkeypatch.delenv("STUB_FAILS")
    assert set(_states(_run(output)).values()) == {"done"}
    assert commands(output)[3:] == TINY


def test_exit_0_without_results_is_a_failure(output):
    runner = runner_of(output)
    runner.program = (sys.executable, "-c", "print('hello')")
    runner.run(Stop())
    reason = runner.outcomes()["d/Tiny-8B-s0/train"].reason
    assert reason == f"hello (exit code 0; {output}/d/Tiny-8B-s0/train/task.log)"


# --- results of other options ---------------------------------------------------------------------------------------


def _other(**method):
    values = scale_values()
    values["methods"]["Tiny"] |= method
    return {"methods": values["methods"]}


def test_results_of_other_options_are_neither_used_nor_removed(output):
    _run(output)
    runner = _run(output, **_other(train=["model=tiny", "trainer.max_epochs=9"]))
    assert len(commands(output)) == 4
    outcomes = runner.outcomes()
    folder = output / "d/Tiny-8B-s0/train"
    assert outcomes["d/Tiny-8B-s0/train"].state == "failed"
    assert outcomes["d/Tiny-8B-s0/train"].reason == (
        f"{folder} was made with other options (trainer.max_epochs=not given, now 9): remove it to run the task"
    )
    assert (folder / "summary.json").is_file()
    shutil.rmtree(folder)
    runner = _run(output, **_other(train=["model=tiny", "trainer.max_epochs=9"]))
    assert commands(output)[4:] == TINY[:1]
    # what was measured of the old codec is not taken for the new one's
    reason = runner.outcomes()["d/Tiny-8B-s0/evaluate"].reason
    assert (
        reason == f"{output}/d/Tiny-8B-s0/evaluate is older than d/Tiny-8B-s0/train, which it was made from: remove it"
    )


def test_options_of_how_it_runs_may_differ(output):
    _run(output)
    summary = output / "d/Tiny-8B-s0/train/summary.json"
    values = json.loads(summary.read_text())
    values["overrides"] = [
        *values["overrides"],
        "logger=wandb",
        "data_dir=/elsewhere",
        "resume=x",
        "logger.mode=online",
    ]
    summary.write_text(json.dumps(values))
    os.utime(summary, (0, 0))
    assert set(_states(runner_of(output)).values()) == {"done"}
    values["overrides"].append("trainer.max_epochs=80")  # given with resume=, by hand
    summary.write_text(json.dumps(values))
    os.utime(summary, (0, 0))
    assert "(trainer.max_epochs=80, now not given)" in runner_of(output).outcomes()["d/Tiny-8B-s0/train"].reason


def test_a_training_started_by_hand_counts(output):
    typed = ["data=x", "model=tiny", "seed=0", "logger=none"]
    folder = output / "d/Tiny-8B-s0/train"
    environment = {**os.environ, "STUB_LOG": str(output.parent / "stub.log")}
    subprocess.run([*STUB, "train", *typed, f"hydra.run.dir={folder}"], env=environment, check=True)
    runner = _run(output)
    assert commands(output) == TINY + BIG
    assert set(_states(runner).values()) == {"done"}
    (folder / "summary.json").write_text(json.dumps({"state": "running", "overrides": typed}))
    os.utime(folder / "summary.json", (0, 0))  # silent for long
    with only_trainer(folder):
        assert runner_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == "runs now"
    (folder / LOCK).touch()  # of a killed training
    assert runner_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == ""


def test_results_without_a_record_of_options(output):
    _run(output, "search", studies=True)
    (output / "d/ivf-Tiny-16B-s0/encode/task.json").unlink()
    reason = runner_of(output, studies=True).outcomes()["d/ivf-Tiny-16B-s0/encode"].reason
    assert reason == f"{output}/d/ivf-Tiny-16B-s0/encode has no record of its options: remove it to run the task"


def test_missing_data(output):
    runner = _run(output, missing={"d": "`qinco download d` brings it: 3.0 GB"})
    assert not (output.parent / "stub.log").exists()
    assert {(outcome.state, outcome.reason) for outcome in runner.outcomes().values()} == {
        ("missing_data", "`qinco download d` brings it: 3.0 GB")
    }


# --- stopping and going on ------------------------------------------------------------------------------------------


_KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.reproduce.tiny_scale import runner_of
from qinco_lit.reproducing.runner import Stop
runner_of(Path(sys.argv[1])).run(Stop())
"""


def test_after_a_kill_the_orphan_is_waited_for_not_doubled(output, monkeypatch):
    monkeypatch.setenv("STUB_WAITS", "Tiny-8B-s0/train")
    root = str(Path(__file__).parents[2])
    killed = subprocess.Popen([sys.executable, "-c", _KILLED, str(output), root])
    until((output.parent / "stub.waits").exists)
    killed.kill()
    killed.wait()
    folder = output / "d/Tiny-8B-s0/train"
    assert runner_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == "runs now"
    with locked(folder) as lock:
        assert lock is None
    threading.Timer(0.3, (output.parent / "stub.go").touch).start()
    runner = _run(output)  # meanwhile does what it can
    assert sorted(commands(output)) == sorted([TINY[0], *BIG, TINY[1]])
    assert set(_states(runner).values()) == {"done"}


def test_after_a_kill_of_both_the_training_goes_on(output, monkeypatch):
    monkeypatch.setenv("STUB_WAITS", "Tiny-8B-s0/train")
    root = str(Path(__file__).parents[2])
    killed = subprocess.Popen([sys.executable, "-c", _KILLED, str(output), root])
    until((output.parent / "stub.waits").exists)
    until(lambda: (output.parent / "stub.waits").read_text())
    killed.kill()
    killed.wait()
    os.kill(int((output.parent / "stub.waits").read_text()), signal.SIGKILL)
    folder = output / "d/Tiny-8B-s0/train"
    until(lambda: runner_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == "")
    assert (folder / "checkpoints/last.ckpt").is_file()
    runner = _run(output)
    assert commands(output)[1:] == ["resume d/Tiny-8B-s0/train", TINY[1], *BIG]
    assert set(_states(runner).values()) == {"done"}


def test_two_calls_share_the_work(output, monkeypatch):
    monkeypatch.setenv("STUB_WAITS", "Tiny-8B-s0/train")
    root = str(Path(__file__).parents[2])
    other = subprocess.Popen([sys.executable, "-c", _KILLED, str(output), root])
    until((output.parent / "stub.waits").exists)
    threading.Timer(0.3, (output.parent / "stub.go").touch).start()
    runner = _run(output)
    assert other.wait() == 0
    assert sorted(commands(output)) == sorted(TINY + BIG)
    assert set(_states(runner).values()) == {"done"}


_DEAF = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_IGN)
Path(os.environ["STUB_LOG"]).with_suffix(".waits").write_text(str(os.getpid()))
time.sleep(60)
"""


def test_a_second_signal_kills_a_task_that_does_not_stop(output):
    runner = runner_of(output)
    runner.program = (sys.executable, "-S", "-c", _DEAF)
    waits = output.parent / "stub.waits"

    def interrupt_twice():
        until(lambda: waits.exists() and waits.read_text())
        os.kill(os.getpid(), signal.SIGINT)
        until(stop)
        os.kill(os.getpid(), signal.SIGINT)

    with Stop().on_signals() as stop:
        thread = threading.Thread(target=interrupt_twice)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            runner.run(stop)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(waits.read_text()), 0)
