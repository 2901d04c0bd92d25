"""`compare`: runs, sweeps, evaluations and searches side by side, without a server."""

import argparse
import fnmatch
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qinco_lit.options import closest

if TYPE_CHECKING:
    from qinco_lit.reports.compare.rows import Run

_log = logging.getLogger(__name__)

DEFAULT_OUTPUT = Path("outputs/compare")
# where nothing was evaluated it orders by the validation error
DEFAULT_METRIC = "mse"
_MANY_PATHS = 5
_FACTS = ("name", "kind", "method", "data_set", "state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco compare`."""
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", type=Path,
        help="folders of runs, sweeps, evaluations or searches, or folders of such; searched through and through",
    )  # fmt: skip
    parser.add_argument(
        "--sort-by", metavar="METRIC", default=DEFAULT_METRIC,
        help="mse (the default; of the database, else of validation), recall_at_1, encode_vectors_per_s, wall_s, ...",
    )  # fmt: skip
    parser.add_argument(
        "--filter", metavar="KEY=VALUE", action="append", default=[], dest="filters",
        help="only rows with that option, e.g. model.num_steps=8 or name=*tiny*; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=None,
        help=f"where compare.html, compare.csv, compare.md and the plots go; default {DEFAULT_OUTPUT}/TIME",
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Read the folders, print the tables, write the report.

    Raises:
        FileNotFoundError, ValueError: nothing to compare, an unknown metric, a filter that nothing passes.
    """
    from qinco_lit.reports.compare.folders import find_folders
    from qinco_lit.reports.compare.metrics import check_metric, ranked
    from qinco_lit.reports.compare.runs import read_runs
    from qinco_lit.reports.compare.texts import plain

    check_metric(options.sort_by)
    found = find_folders(options.paths)
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        _log.warning("%s", plain(text))

    for warning in found.warnings:
        warn(warning)
    runs = read_runs(found, warn)
    if not runs:
        what = "no summary.json, metrics.json or search.json is readable there"
        raise ValueError(f"nothing to compare in {_listed(options.paths)}: {what}")
    runs = ranked(_filtered(runs, options.filters), options.sort_by)
    if options.sort_by != DEFAULT_METRIC and not any(options.sort_by in run.results for run in runs):
        _log.warning("no row has %s: sorted by MSE and recall", options.sort_by)
    _report(runs, options, warnings, warn)


def _report(
    runs: Sequence["Run"], options: argparse.Namespace, warnings: Sequence[str], warn: Callable[[str], None]
) -> None:
    from rich.console import Console

    from qinco_lit.reports.compare.differences import constants_line
    from qinco_lit.reports.compare.report import NOTES, Report, write_report
    from qinco_lit.reports.compare.tables import Comparison, terminal_tables

    codecs = [run for run in runs if run.kind != "search"]
    searches = [run for run in runs if run.kind == "search"]
    report = Report(
        _title(len(codecs), len(searches)),
        _listed(options.paths),
        Comparison.of(codecs, options.sort_by) if codecs else None,
        Comparison.of(searches, options.sort_by) if searches else None,
        warnings,
    )
    output_dir = options.output or DEFAULT_OUTPUT / time.strftime("%Y-%m-%d_%H-%M-%S")
    write_report(report, output_dir, warn)  # first: whoever pipes the tables into `head` has the files nevertheless
    console = Console()
    for name, part in report.parts:
        console.print(name, style="bold")
        for table in terminal_tables(part, console.width):
            console.print(table)
        if part.options.constant:
            console.print(f"The same in all: {constants_line(part.options)}", style="dim", soft_wrap=True, markup=False)
    console.print(NOTES, style="dim")
    console.print(f"page: {output_dir / 'compare.html'}", soft_wrap=True, markup=False)


def _listed(paths: Sequence[Path]) -> str:
    if len(paths) < _MANY_PATHS:
        return ", ".join(map(str, paths))
    return f"{paths[0]} and {len(paths) - 1} more folders"


def _title(num_codecs: int, num_searches: int) -> str:
    counts = {"codec": num_codecs, "searched index": num_searches}
    ending = {"codec": "s", "searched index": "es"}
    parts = [f"{count} {name}{'' if count == 1 else ending[name]}" for name, count in counts.items() if count]
    return f"Comparison of {' and '.join(parts)}"


def _filtered(runs: Sequence["Run"], filters: Sequence[str]) -> list["Run"]:
    from qinco_lit.reports.compare.differences import value_text

    known = {*_FACTS, *(name for run in runs for name in run.options)}
    kept = list(runs)
    for each in filters:
        key, equals, pattern = each.partition("=")
        if not equals:
            raise ValueError(f"--filter {each} is not of the form KEY=VALUE")
        if key not in known:
            raise ValueError(f"--filter {each}: no row has the option {key}{closest(key, known)}")
        facts = {run: (run.name, run.kind, run.method, run.data, run.state) for run in kept}
        values = {run: facts[run][_FACTS.index(key)] if key in _FACTS else value_text(run, key) for run in kept}
        left = [run for run in kept if fnmatch.fnmatchcase(values[run], pattern)]
        if not left:
            there = ", ".join(sorted({value for value in values.values() if value})[:8])
            raise ValueError(f"--filter {each}: no row passes; {key} is one of {there}")
        kept = left
    return kept
