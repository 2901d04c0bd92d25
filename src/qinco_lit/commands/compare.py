"""`compare`: runs, sweeps, evaluations and searches side by side, without a server."""

import argparse
import logging
import time
from pathlib import Path

_log = logging.getLogger(__name__)

DEFAULT_OUTPUT = Path("outputs/compare")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `qinco compare`."""
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", type=Path,
        help="folders of runs, sweeps, evaluations or searches, or folders of such; searched through and through",
    )  # fmt: skip
    parser.add_argument(
        "--sort-by", metavar="METRIC", default="mse",
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
    from rich.console import Console

    from qinco_lit.reports.compare.columns import constants_line
    from qinco_lit.reports.compare.report import NOTES, compare, write_report
    from qinco_lit.reports.compare.tables import terminal_tables
    from qinco_lit.reports.kit.texts import plain

    def warn(text: str) -> None:
        _log.warning("%s", plain(text))

    report = compare(options.paths, warn=warn, sort_by=options.sort_by, filters=options.filters)
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
