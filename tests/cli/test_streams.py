"""A terminal that is closed, left or of few characters ends no command and says nothing."""

import subprocess
import sys

import pytest

QINCO = f"{sys.executable} -m qinco_lit.cli"
# Prints what rich, logging and argparse print, with characters that ASCII lacks, before its result.
WORK = """
import logging, sys
from pathlib import Path
from qinco_lit import cli

def run(config, run_dir):
    from rich.console import Console
    from rich.table import Table

    for _ in range(600):  # of some 200 bytes: more than a pipe holds
        table = Table("method", "MSE × 10")
        table.add_row("é", "·")
        Console().print(table)
    Console().print("results: é", soft_wrap=True)
    logging.getLogger("qinco_lit").info("1 of 2 rows (50 %) · 1 rows/s · 1 s left")
    Path("result").write_text("whole")

cli.JOBS["encode"] = cli.Job("", lambda config: None, run)
sys.exit(cli.main(["encode"]))
"""


def _shell(line: str, cwd, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "line",
    [
        f"{QINCO} train --help | head -1",
        f"{QINCO} --help | true",
        f"{QINCO} --help >&-",
        f"{QINCO} --version >&- 2>&- <&-",
        f"{QINCO} verify --help >&-",
        f"{QINCO} train --cfg job | head -1",
    ],
)
def test_help_that_nobody_reads_to_its_end_is_quiet(line, tmp_path):
    done = _shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("stream", ["| head -1", "| true", ">&-", ">&- 2>&-"])
def test_a_job_whose_output_nobody_reads_ends_its_work(stream, tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    done = _shell(f"{sys.executable} work.py {stream}", tmp_path)
    assert (done.returncode, "Traceback" in done.stderr, "qinco: error" in done.stderr) == (0, False, False)
    assert (tmp_path / "result").read_text() == "whole"


def test_a_mistake_without_a_terminal_is_an_exit_code(tmp_path):
    assert _shell(f"{QINCO} train model=x >&- 2>&-", tmp_path).returncode == 2


def test_an_output_that_does_not_fit_is_one_line(tmp_path):
    done = _shell(f"{QINCO} --help >/dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (2, "qinco: error: [Errno 28] No space left on device\n")


def test_a_terminal_of_few_characters_gets_others_for_those_it_lacks(tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    done = _shell(f"LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii {sys.executable} work.py", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("results: ?\n")
    assert done.stderr == "1 of 2 rows (50 %) ? 1 rows/s ? 1 s left\n"
