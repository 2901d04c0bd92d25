"""The engine runs what is not done, cheapest first; goes on after anything; never mixes results of other options."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qinco_lit.commands.reproduce import reproduce
from qinco_lit.reproducing.engine import Stop
from qinco_lit.reproducing.process import locked
from qinco_lit.run_folder import LOCK
from qinco_lit.training.run_folder import only_trainer
from tests.reproduce.tiny_scale import STUB, commands, engine_of, scale_values

TINY = ["train d/Tiny-8B-s0/train", "evaluate d/Tiny-8B-s0/evaluate"]
BIG = ["train d/Big-8B-s0/train", "evaluate d/Big-8B-s0/evaluate"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def _states(engine):
    return {name: outcome.state for name, outcome in engine.outcomes().items()}


def _run(output, *words, **changes):
    engine = engine_of(output, *words, **changes)
    engine.run(Stop())
    return engine


def test_everything_once_in_order_of_cost(output):
    engine = _run(output)
    assert commands(output) == TINY + BIG
    assert set(_states(engine).values()) == {"done"}
    log = (output / "d/Tiny-8B-s0/train/task.log").read_text().splitlines()
    assert log == [
        f"$ qinco train data=x model=tiny seed=0 logger=none hydra.run.dir={output}/d/Tiny-8B-s0/train",
        "the stub works",
    ]
    assert engine.outcomes()["d/Tiny-8B-s0/train"].wall_s == 12.0  # the training's own count
    record = json.loads((output / "d/Tiny-8B-s0/evaluate/task.json").read_text())
    assert (record["state"], record["exit_code"]) == ("done", 0)


def test_what_is_done_is_not_run_again(output):
    _run(output)
    shutil.rmtree(output / "d/Big-8B-s0/evaluate")
    engine = _run(output)
    assert commands(output) == [*TINY, *BIG, "evaluate d/Big-8B-s0/evaluate"]
    assert set(_states(engine).values()) == {"done"}


def test_the_folder_may_be_moved(output):
    _run(output, studies=True)
    moved = output.with_name("elsewhere")
    output.rename(moved)
    assert set(_states(engine_of(moved, studies=True)).values()) == {"done"}


def test_a_choice_runs_with_what_it_needs_and_leaves_the_others(output):
    engine = _run(output, "run_time", studies=True)
    assert commands(output) == ["train d/Tiny-8B-s0/train", "evaluate d/Tiny-8B-s0/run_time/A4-B2"]
    states = _states(engine)
    assert states.pop("d/Tiny-8B-s0/train") == states.pop("d/Tiny-8B-s0/run_time/A4-B2") == "done"
    assert set(states.values()) == {"skipped"}


def test_a_failure_stops_only_what_needs_it_and_is_tried_again(output, monkeypatch):
    monkeypatch.setenv("STUB_FAILS", "d/Tiny-8B-s0/train")
    engine = _run(output)
    assert commands(output) == [TINY[0], *BIG]
    outcomes = engine.outcomes()
    log = output / "d/Tiny-8B-s0/train/task.log"
    assert outcomes["d/Tiny-8B-s0/train"].state == "failed"
    assert outcomes["d/Tiny-8B-s0/train"].reason == f"qinco: error: x is wrong (exit code 2; {log})"
    assert outcomes["d/Tiny-8B-s0/evaluate"].reason == "needs d/Tiny-8B-s0/train, which failed"
    assert engine_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == "failed at the last try"
    monkeypatch.delenv("STUB_FAILS")
    assert set(_states(_run(output)).values()) == {"done"}
    assert commands(output)[3:] == TINY


def test_exit_0_without_results_is_a_failure(output):
    engine = engine_of(output)
    engine.program = (sys.executable, "-c", "print('hello')")
    engine.run(Stop())
    reason = engine.outcomes()["d/Tiny-8B-s0/train"].reason
    assert reason == f"hello (exit code 0; {output}/d/Tiny-8B-s0/train/task.log)"


# --- results of other options ---------------------------------------------------------------------------------------


def _other(**method):
    values = scale_values()
    values["methods"]["Tiny"] |= method
    return {"methods": values["methods"]}


def test_results_of_other_options_are_neither_used_nor_removed(output):
    _run(output)
    engine = _run(output, **_other(train=["model=tiny", "trainer.max_epochs=9"]))
    assert len(commands(output)) == 4
    outcomes = engine.outcomes()
    folder = output / "d/Tiny-8B-s0/train"
    assert outcomes["d/Tiny-8B-s0/train"].state == "failed"
    assert outcomes["d/Tiny-8B-s0/train"].reason == (
        f"{folder} was made with other options (trainer.max_epochs=not given, now 9): remove it to run the task"
    )
    assert (folder / "summary.json").is_file()
    shutil.rmtree(folder)
    engine = _run(output, **_other(train=["model=tiny", "trainer.max_epochs=9"]))
    assert commands(output)[4:] == TINY[:1]
    # what was measured of the old codec is not taken for the new one's
    reason = engine.outcomes()["d/Tiny-8B-s0/evaluate"].reason
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
    assert set(_states(engine_of(output)).values()) == {"done"}
    values["overrides"].append("trainer.max_epochs=80")  # given with resume=, by hand
    summary.write_text(json.dumps(values))
    os.utime(summary, (0, 0))
    assert "(trainer.max_epochs=80, now not given)" in engine_of(output).outcomes()["d/Tiny-8B-s0/train"].reason


def test_a_training_started_by_hand_counts(output):
    typed = ["data=x", "model=tiny", "seed=0", "logger=none"]
    folder = output / "d/Tiny-8B-s0/train"
    environment = {**os.environ, "STUB_LOG": str(output.parent / "stub.log")}
    subprocess.run([*STUB, "train", *typed, f"hydra.run.dir={folder}"], env=environment, check=True)
    engine = _run(output)
    assert commands(output) == TINY + BIG
    assert set(_states(engine).values()) == {"done"}
    (folder / "summary.json").write_text(json.dumps({"state": "running", "overrides": typed}))
    os.utime(folder / "summary.json", (0, 0))  # silent for long
    with only_trainer(folder):
        assert engine_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == "runs now"
    (folder / LOCK).touch()  # of a killed training
    assert engine_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == ""


def test_results_without_a_record_of_options(output):
    _run(output, "search", studies=True)
    (output / "d/ivf-Tiny-16B-s0/encode/task.json").unlink()
    reason = engine_of(output, studies=True).outcomes()["d/ivf-Tiny-16B-s0/encode"].reason
    assert reason == f"{output}/d/ivf-Tiny-16B-s0/encode has no record of its options: remove it to run the task"


def test_missing_data(output):
    engine = _run(output, missing={"d": "`qinco download d` brings it: 3.0 GB"})
    assert not (output.parent / "stub.log").exists()
    assert {(outcome.state, outcome.reason) for outcome in engine.outcomes().values()} == {
        ("missing_data", "`qinco download d` brings it: 3.0 GB")
    }


# --- stopping and going on ------------------------------------------------------------------------------------------


def _until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _call(output: Path, environment: dict[str, str] | None = None, **more) -> None:
    reproduce(
        scale=scale_values(),
        scale_name="tiny",
        output=output,
        find_missing=lambda _: None,
        environment={"STUB_LOG": str(output.parent / "stub.log"), **(environment or {})},
        program=STUB,
        **more,
    )


@pytest.fixture
def reports(monkeypatch):
    """The reports that would have been written."""
    written = []
    monkeypatch.setattr("qinco_lit.reports.iclr.write_report", lambda results, folder: written.append(results))
    return written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_task_which_is_continued(output, monkeypatch, reports, number):
    before = signal.getsignal(number)
    monkeypatch.setenv("STUB_WAITS", "Tiny-8B-s0/train")
    waits = output.parent / "stub.waits"

    def interrupt():
        _until(waits.exists)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        _call(output)
    thread.join()
    assert signal.getsignal(number) is before
    assert commands(output) == TINY[:1]
    assert json.loads((output / "d/Tiny-8B-s0/train/task.json").read_text())["state"] == "stopped"
    assert json.loads((output / "results.json").read_text())["records"] == []
    assert [len(each["tasks"]) for each in reports] == [4]
    _call(output)
    assert commands(output)[1:] == ["resume d/Tiny-8B-s0/train", TINY[1], *BIG]
    assert {task["state"] for task in reports[-1]["tasks"]} == {"done"}


_KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.reproduce.tiny_scale import engine_of
from qinco_lit.reproducing.engine import Stop
engine_of(Path(sys.argv[1])).run(Stop())
"""


def test_after_a_kill_the_orphan_is_waited_for_not_doubled(output, monkeypatch):
    monkeypatch.setenv("STUB_WAITS", "Tiny-8B-s0/train")
    root = str(Path(__file__).parents[2])
    killed = subprocess.Popen([sys.executable, "-c", _KILLED, str(output), root])
    _until((output.parent / "stub.waits").exists)
    killed.kill()
    killed.wait()
    folder = output / "d/Tiny-8B-s0/train"
    assert engine_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == "runs now"
    with locked(folder) as lock:
        assert lock is None
    threading.Timer(0.3, (output.parent / "stub.go").touch).start()
    engine = _run(output)  # meanwhile does what it can
    assert sorted(commands(output)) == sorted([TINY[0], *BIG, TINY[1]])
    assert set(_states(engine).values()) == {"done"}


def test_after_a_kill_of_both_the_training_goes_on(output, monkeypatch):
    monkeypatch.setenv("STUB_WAITS", "Tiny-8B-s0/train")
    root = str(Path(__file__).parents[2])
    killed = subprocess.Popen([sys.executable, "-c", _KILLED, str(output), root])
    _until((output.parent / "stub.waits").exists)
    _until(lambda: (output.parent / "stub.waits").read_text())
    killed.kill()
    killed.wait()
    os.kill(int((output.parent / "stub.waits").read_text()), signal.SIGKILL)
    folder = output / "d/Tiny-8B-s0/train"
    _until(lambda: engine_of(output).outcomes()["d/Tiny-8B-s0/train"].reason == "")
    assert (folder / "checkpoints/last.ckpt").is_file()
    engine = _run(output)
    assert commands(output)[1:] == ["resume d/Tiny-8B-s0/train", TINY[1], *BIG]
    assert set(_states(engine).values()) == {"done"}


def test_two_calls_share_the_work(output, monkeypatch):
    monkeypatch.setenv("STUB_WAITS", "Tiny-8B-s0/train")
    root = str(Path(__file__).parents[2])
    other = subprocess.Popen([sys.executable, "-c", _KILLED, str(output), root])
    _until((output.parent / "stub.waits").exists)
    threading.Timer(0.3, (output.parent / "stub.go").touch).start()
    engine = _run(output)
    assert other.wait() == 0
    assert sorted(commands(output)) == sorted(TINY + BIG)
    assert set(_states(engine).values()) == {"done"}


_DEAF = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_IGN)
Path(os.environ["STUB_LOG"]).with_suffix(".waits").write_text(str(os.getpid()))
time.sleep(60)
"""


def test_a_second_signal_kills_a_task_that_does_not_stop(output):
    engine = engine_of(output)
    engine.program = (sys.executable, "-S", "-c", _DEAF)
    waits = output.parent / "stub.waits"

    def interrupt_twice():
        _until(lambda: waits.exists() and waits.read_text())
        os.kill(os.getpid(), signal.SIGINT)
        _until(stop)
        os.kill(os.getpid(), signal.SIGINT)

    with Stop().on_signals() as stop:
        thread = threading.Thread(target=interrupt_twice)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            engine.run(stop)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(waits.read_text()), 0)


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_failure_of_what_was_chosen_is_exit_code_1(output, monkeypatch, reports, caplog):
    monkeypatch.setenv("STUB_FAILS", "d/Tiny-8B-s0/train")
    with pytest.raises(SystemExit) as stop:
        _call(output)
    assert stop.value.code == 1
    failed = {task["name"]: task for task in reports[-1]["tasks"]}["d/Tiny-8B-s0/train"]
    assert (failed["state"], failed["command"]) == (
        "failed", f"qinco train data=x model=tiny seed=0 logger=none hydra.run.dir={output}/d/Tiny-8B-s0/train",
    )  # fmt: skip
    assert caplog.messages[-1] == f"failed: d/Tiny-8B-s0/train: {failed['reason']}"
    _call(output, only=["Big"])  # which did not fail


def test_a_dry_run_writes_nothing_and_lists_commands_for_a_shell(output, capsys):
    _call(output, dry_run=True, only=["Tiny"])
    assert not output.exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "# to run, about 10 s: d/Tiny-8B-s0/train [main]",
        f"qinco train data=x model=tiny seed=0 logger=none hydra.run.dir={output}/d/Tiny-8B-s0/train",
        "# to run, about 2 s: d/Tiny-8B-s0/evaluate [main, speed, dynamic_rate]",
    ]
    assert [line for line in lines if not line.startswith("#")] == [lines[1], lines[3]]
    assert lines[-1] == "# 4 tasks: 2 to run, 2 skipped; to run: about 12 s on a stub (an estimate)"
    assert lines[-2].startswith("#   qinco evaluate codec=")


@pytest.mark.parametrize(
    ("exported", "data_dir", "first"),
    [
        (None, "data", None),
        (None, "my sets", "export QINCO_DATA='my sets'"),
        ("/sets", "/sets", "export QINCO_DATA=/sets"),  # another shell does not have it
        ("/sets", "data", "export QINCO_DATA=data"),
    ],
)
def test_a_dry_run_begins_with_the_folder_of_the_data(output, capsys, monkeypatch, exported, data_dir, first):
    monkeypatch.delenv("QINCO_DATA", raising=False)
    if exported:
        monkeypatch.setenv("QINCO_DATA", exported)
    _call(output, {"QINCO_DATA": data_dir}, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "QINCO_DATA" in line] == ([first] if first else [])
    assert lines.index(first or "# to run, about 10 s: d/Tiny-8B-s0/train [main]") == 0


def test_commands_of_the_results_name_the_folder_of_the_data(output, monkeypatch, reports):
    monkeypatch.delenv("QINCO_DATA", raising=False)
    _call(output, {"QINCO_DATA": "/sets"})
    assert all(task["command"].startswith("QINCO_DATA=/sets qinco ") for task in reports[-1]["tasks"])
