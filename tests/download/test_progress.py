"""What is shown of a download: a line now and then, or bars where there is a terminal."""

import io
import logging

import pytest
from rich.console import Console

from qinco_lit.commands import download_progress
from qinco_lit.commands.download_progress import Lines, progress_line, progress_shown
from qinco_lit.downloads import Progress
from qinco_lit.downloads.remote_file import readable


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((10**9, 4 * 10**9, 0, 20.0), "x: 1.0 GB of 4.0 GB (25 %) · 50.0 MB/s · 0:01:00 left"),
        ((10**9, 4 * 10**9, 10**9 // 2, 10.0), "x: 1.0 GB of 4.0 GB (25 %) · 50.0 MB/s · 0:01:00 left"),
        ((500, 1000, 500, 10.0), "x: 500 B of 1.0 kB (50 %)"),
        ((5 * 10**6, None, 0, 1.0), "x: 5.0 MB · 5.0 MB/s"),
    ],
)
def test_a_line_counts_only_what_came_now_for_the_rate(arguments, line):
    assert progress_line("x", *arguments) == line


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (132 * 10**9, "132.0 GB"), (1.5e12, "1.50 TB")],
)
def test_sizes_are_decimal(num_bytes, text):
    assert readable(num_bytes) == text


def test_lines_come_at_most_every_so_often(caplog):
    caplog.set_level(logging.INFO)
    rare, often = Lines(3600.0), Lines(0.0)
    for lines in (rare, often):
        lines.begin("a", "downloading", 0, 100)
        lines.begin("b", "checking", 0, 100)
        lines.advance("a", 50)
        lines.end("b")
        lines.advance("a", 25)
        lines.end("a")
    assert [message.partition(" ·")[0] for message in caplog.messages] == [
        "downloading a: 50 B of 100 B (50 %)",
        "checking b: 0 B of 100 B (0 %)",
        "downloading a: 75 B of 100 B (75 %)",
    ]


def test_bars_on_a_terminal(monkeypatch):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    monkeypatch.setattr(download_progress, "Console", lambda stderr: console)
    with progress_shown() as progress:
        assert isinstance(progress, Progress)
        progress.begin("a", "downloading", 0, 100)
        progress.advance("a", 50)
        progress.begin("a", "checking", 0, 100)
        progress.note("a: [is] told")
        progress.begin("b", "downloading", 0, None)
        progress.end("a")
        progress.end("a")
    shown = stream.getvalue()
    assert "a: [is] told" in shown
    last = shown.rpartition("downloading b")
    assert last[1]
    assert "checking a" not in last[2]
