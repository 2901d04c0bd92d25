"""What is shown of long work: a bar where there is a terminal, a line now and then elsewhere, nothing if so asked."""

import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time

import pytest

from qinco_lit import progress as module
from qinco_lit.progress import Progress, duration, readable_bytes


def _line(unit: str, done: int, total: int | None, first: int, seconds: float) -> str:
    progress = Progress(unit, show=False)
    progress.start("x", total, done=first)
    progress.reach(done)
    return progress.line(seconds)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("rows", 1000, 4000, 0, 20.0), "1,000 of 4,000 rows (25 %) · 50 rows/s · 60 s left"),
        (("rows", 1000, 4000, 500, 10.0), "1,000 of 4,000 rows (25 %) · 50 rows/s · 60 s left"),  # 500 of before
        (("bytes", 10**9, 4 * 10**9, 0, 20.0), "1.0 GB of 4.0 GB (25 %) · 50.0 MB/s · 60 s left"),
        (("bytes", 500, 1000, 500, 10.0), "500 B of 1.0 kB (50 %)"),
        (("rows", 3, 9, 0, 0.0), "3 of 9 rows (33 %)"),
        (("bytes", 5 * 10**6, None, 0, 1.0), "5.0 MB · 5.0 MB/s"),
        (("rows", 5000, None, 0, 1.0), "5,000 rows · 5,000 rows/s"),
        (("runs", 2, 8, 0, 8.0), "2 of 8 runs (25 %) · 0.25 runs/s · 24 s left"),
        (("rows", 12, 10, 0, 1.0), "12 of 10 rows (120 %) · 12 rows/s · 0 s left"),  # more came than was said
        (("rows", 5, 10, 8, 1.0), "5 of 10 rows (50 %)"),  # some were lost
    ],
)
def test_a_line_counts_only_what_came_now_for_the_rate(arguments, line):
    assert _line(*arguments) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7140, "119 min"), (7200, "2 h 0 min"), (7500, "2 h 5 min"),
     (172_799, "2 d 0 h"), (200_000, "2 d 7 h")],
)  # fmt: skip
def test_a_time_has_the_two_units_that_matter(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (132 * 10**9, "132.0 GB"), (1.5e12, "1.50 TB")],
)
def test_sizes_are_decimal(num_bytes, text):
    assert readable_bytes(num_bytes) == text


# --- not on a terminal ------------------------------------------------------------------------------------------------


def test_lines_come_at_most_every_so_often(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Progress() as progress:
        progress.start("encoding", 480)
        for _ in range(470):
            now[0] += 0.125
            progress.advance()
    assert [message.partition(" rows (")[0] for message in caplog.messages] == [
        f"encoding: {done} of 480"
        for done in (80, 160, 240, 320, 400)  # after 10, 20, 30, 40 and 50 of 60 s
    ]


def test_short_work_says_nothing(caplog, capfd):
    caplog.set_level(logging.INFO)
    with Progress() as progress:
        progress.start("x", 10)
        progress.advance(10)
    assert (caplog.messages, capfd.readouterr()) == ([], ("", ""))


def test_work_that_is_not_shown_says_nothing(caplog, capfd, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module.sys, "stderr", _Terminal())
    with Progress(show=False, line_every_s=0.0) as progress:
        progress.start("x", 10)
        progress.advance(10)
        progress.note("told")
    assert (caplog.messages, module.sys.stderr.getvalue()) == ([], "")


def test_what_is_done_may_be_named(caplog):
    caplog.set_level(logging.INFO)
    with Progress(line_every_s=0.0) as progress:
        progress.start("x", None)
        progress.advance(2, what="part 1")
        progress.reach(7, what="part 2")
        progress.advance(1)
        progress.note("a note")
    assert [message.partition(" ·")[0] for message in caplog.messages] == [
        "part 1: 2 rows", "part 2: 7 rows", "part 2: 8 rows", "a note",
    ]  # fmt: skip


@pytest.mark.parametrize(("counted", "line"), [(0, "solving: 0 s"), (3, "solving: 3 rows · ")])
def test_work_that_counts_nothing_is_shown_all_the_same(counted, line, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "_TICK_S", 0.01)
    told = threading.Event()
    monkeypatch.setattr(module, "_tell", lambda text: (module.log.info(text), told.set()))
    with Progress(line_every_s=0.05) as progress:
        progress.start("solving", None)
        progress.advance(counted)
        assert told.wait(60)
        progress.stop()
        said = list(caplog.messages)
        assert said[0].startswith(line)
        progress.advance()  # of work that has ended
        assert caplog.messages == said
        told.clear()
        progress.start("other", None)
        assert told.wait(60)
    assert caplog.messages[-1].startswith("other: ")
    for thread in threading.enumerate():  # none goes on when the work has ended
        if thread.name == "progress":
            thread.join(60)
            assert not thread.is_alive()


def test_the_unit_may_change_with_the_work():
    progress = Progress("points", show=False)
    progress.start("x", 10, unit="vectors")
    progress.reach(5)
    assert progress.line(1.0) == "5 of 10 vectors (50 %) · 5 vectors/s · 1 s left"


@pytest.mark.parametrize("show", [True, False])
def test_no_count_is_lost_between_threads(show, caplog):
    with Progress(show=show, line_every_s=0.001) as progress:
        progress.start("x", 40_000)

        def work() -> None:
            for _ in range(10_000):
                progress.advance()

        threads = [threading.Thread(target=work) for _ in range(4)]
        switch = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(switch)
        assert progress.line(1.0) == "40,000 of 40,000 rows (100 %) · 40,000 rows/s · 0 s left"


_SCRIPT = """
import {logging} time
from qinco_lit.progress import Progress
with Progress("vectors", line_every_s=0.0) as progress:
    progress.start("encoding a[b].npy", {total})
    for _ in range(12):
        time.sleep({pause})
        progress.advance(500)
        progress.note("one [red]note") if progress._done == 5000 else None
    if {fails}:
        raise KeyError("x")
"""


def _script(**values: object) -> str:
    return _SCRIPT.format(**{"logging": "", "total": 6000, "fails": False, "pause": 0.001, **values})


def test_where_nobody_listens_to_the_log_lines_go_to_standard_error():
    ran = subprocess.run([sys.executable, "-c", _script()], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")
    lines = ran.stderr.splitlines()
    assert len(lines) == 13
    assert lines[-1].startswith("encoding a[b].npy: 6,000 of 6,000 vectors (100 %) · ")
    silenced = _script(logging="logging; logging.basicConfig(level=logging.WARNING); import")
    assert subprocess.run([sys.executable, "-c", silenced], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "2>/dev/full"])
def test_a_standard_error_that_cannot_be_written_ends_no_work(closed):
    ran = subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, _script()], capture_output=True)
    assert ran.returncode == 0


# --- on a terminal ----------------------------------------------------------------------------------------------------


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _on_terminal(script: str, term: str = "xterm") -> tuple[int, str]:
    """Run a script on a terminal of its own; return its exit code and all that was written there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "100"}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # the last writer has closed it
            break
        if not block:
            break
        shown += block
    os.close(ours)
    return process.wait(), shown.decode()


@pytest.mark.parametrize("total", [6000, None])
def test_a_bar_on_a_terminal_says_how_far_it_is_and_goes(total):
    code, shown = _on_terminal(_script(total=total, pause=0.08))
    assert code == 0
    how_far = r"encoding a\[b\]\.npy: \d,\d00" + (r" of 6,000 vectors \(\d\d %\)" if total else " vectors") + r" · "
    assert re.search(how_far + r"[\d,]+ vectors/s", shown)
    assert "one [red]note" in shown
    assert shown.index("one [red]note") > shown.index("\x1b[?25l")  # while the cursor is hidden: above the bar
    assert shown.rstrip().endswith("\x1b[2K")  # the bar is wiped


def test_an_error_leaves_the_terminal_as_it_was():
    code, shown = _on_terminal(_script(fails=True))
    assert code == 1
    assert shown.index("\x1b[?25h") < shown.index("KeyError")  # the cursor is back


def test_a_terminal_that_cannot_redraw_gets_lines():
    code, shown = _on_terminal(_script(), term="dumb")
    assert code == 0
    assert "\x1b" not in shown
    assert shown.count("encoding a[b].npy: ") == 12


def test_one_bar_after_the_other(monkeypatch):
    monkeypatch.setattr(module.sys, "stderr", _Terminal())
    monkeypatch.setattr(module, "_BAR_EVERY_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as progress:
        for name in ("first", "second"):
            progress.start(name, 10)
            progress.advance(5)
            time.sleep(0.2)
        assert progress._bar is not None
        assert [task.description.partition(":")[0] for task in progress._bar.tasks] == ["second"]
    assert progress._bar is None


def test_a_training_that_failed_tells_nothing_any_more() -> None:
    from pytorch_lightning import LightningModule, Trainer

    from qinco_lit.training.progress import Reporter
    from qinco_lit.training.trainer import quiet_lightning

    quiet_lightning()
    reporter = Reporter(show=True)
    reporter._progress.start("training", 10)
    telling = [thread for thread in threading.enumerate() if thread.name == "progress"]
    assert telling
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    reporter.on_exception(trainer, LightningModule(), ValueError())
    telling[-1].join(timeout=30)
    assert not telling[-1].is_alive()
