"""The command: signals, exit codes, dry runs, what is in the results."""

import importlib
import json
import os
import signal
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from qinco_lit.commands.reproduce import reproduce
from tests.reproduce.tiny_scale import BIG, STUB, TINY, commands, scale_values, until


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


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
        until(waits.exists)
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


def test_an_older_snapshot_never_replaces_a_newer_one(output, monkeypatch):
    """While a call writes what it has seen, another one ends: that one looks and writes afterwards."""
    module = importlib.import_module("qinco_lit.reproducing.reproduce")
    seen, others = [], []

    def write(tasks, outcomes, folder, **about):
        if not others:  # the first call, of Tiny alone
            others.append(threading.Thread(target=_call, args=(output,)))
            others[0].start()
            until(lambda: commands(output) == [*TINY, *BIG])
        seen.append(sum(outcome.state == "done" for outcome in outcomes.values()))

    monkeypatch.setattr(module, "write_results", write)
    monkeypatch.setattr(module.Stop, "on_signals", lambda stop: nullcontext(stop))  # only a main thread can listen
    _call(output, only=["Tiny"])
    others[0].join()
    assert seen == [len(TINY), len(TINY) + len(BIG)]
    assert not list(output.glob(".*"))
