"""The `qinco` command: a table of commands, and the only place that knows Hydra and OmegaConf.

A job (`train`, `evaluate`) is a Hydra app. Its whole command line is composed and checked here before Hydra makes a run
folder, so that a mistake costs one line and leaves nothing behind. Heavy packages are imported by the functions that
need them: `--help` must not wait for torch.
"""

import argparse
import contextlib
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from qinco_lit.cli.hydra_adapter import raise_mistake
from qinco_lit.cli.jobs import run_job
from qinco_lit.cli.spec import Job
from qinco_lit.cli.streams import forgiving_streams
from qinco_lit.cli.sweeps import UserError
from qinco_lit.cli.table import BEGIN, JOBS, TASKS, TOOLS, Tool
from qinco_lit.mistakes import in_one_line, is_meant
from qinco_lit.options import unknown

__all__ = ["JOBS", "TOOLS", "Job", "Tool", "main"]


# They say at every start which variants of faiss were not found, and where the credentials of a bucket were.
_LOUD = ("faiss.loader", "aiobotocore.credentials")


class _Parser(argparse.ArgumentParser):
    error = raise_mistake


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's) and return its exit code: 0, or 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # read by OpenMP when torch and faiss are loaded: threads that wait for others sleep instead of keeping a core busy
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["QINCO_COMMAND"] = shlex.join(["qinco", *arguments])  # for summaries, of processes of the job, too
    try:
        with forgiving_streams():
            return _run(arguments)
    except OSError as error:  # what was printed did not fit where it was sent
        return _report(error)


def _run(arguments: list[str]) -> int:
    try:
        with _own_logging():
            return _dispatch(arguments)
    except UserError as error:
        return _report(error.__cause__ or error, error.log)
    except (ValueError, OSError) as error:
        return _report(error)
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns Ctrl-C into SystemExit(1)
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        sys.stderr.write("qinco: interrupted\n")
        return 130


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Give the root logger back as it was: Hydra leaves its handlers, one of them on the log file of the last run.

    A log that cannot be written, as on a full disk, ends nothing, and is no reason for a traceback at every line.
    """
    root, loud = logging.getLogger(), [logging.getLogger(name) for name in _LOUD]
    handlers, level, told, levels = list(root.handlers), root.level, logging.raiseExceptions, [o.level for o in loud]
    logging.raiseExceptions = False
    for each in loud:
        each.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            with contextlib.suppress(OSError):
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        for each, its_level in zip(loud, levels, strict=True):
            each.setLevel(its_level)
        logging.raiseExceptions = told


def _dispatch(arguments: list[str]) -> int:
    if "--version" in arguments:
        from qinco_lit import __version__

        sys.stdout.write(f"qinco_lit {__version__}\n")
    elif not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
    elif (name := arguments[0]) in JOBS:
        run_job(name, arguments[1:])
    elif name in TOOLS:
        parser = _Parser(prog=f"qinco {name}", description=TOOLS[name].summary, allow_abbrev=False)
        TOOLS[name].add_arguments(parser)
        options = parser.parse_args(arguments[1:])
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        TOOLS[name].run(options)
    else:
        raise unknown("command", name, [*JOBS, *TOOLS])
    return 0


def _overview() -> str:
    summaries = {name: job.summary for name, job in JOBS.items()} | {name: tool.summary for name, tool in TOOLS.items()}
    tasks = [(task, [f"  {name:<15} {summaries[name]}" for name in names]) for task, names in TASKS.items()]
    text = "\n\n".join(
        "\n".join([f"{task}:", *lines]) for task, lines in [*tasks, ("Begin with", [f"  {line}" for line in BEGIN])]
    )
    advice = "`qinco COMMAND --help` explains a command with examples.\n`qinco --version` names the version."
    return f"qinco COMMAND ...\n\n{text}\n\n{advice}\n"


def _report(error: BaseException, log: Path | None = None) -> int:
    """Say a mistake in one line; of one that nobody meant to report, where to find the traceback."""
    if os.environ.get("QINCO_DEBUG") == "1":
        traceback.print_exception(error)
    where = "QINCO_DEBUG=1 shows the traceback" if log is None else f"the traceback is in {log}"
    hint = "" if is_meant(error) else f" ({type(error).__name__}, unexpected: {where})"
    sys.stderr.write(f"qinco: error: {in_one_line(error)}{hint}\n")
    return 2
