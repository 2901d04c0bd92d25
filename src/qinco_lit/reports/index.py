"""What `qinco index` has built, as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from qinco_lit.reports.tables import squared_error_text


def index_table(report: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table of a report of `index`.

    Args:
        report: content of report.json.
        parts: files of the index directory, each with its `bytes`.
    """
    sizes, num_vectors = report["bytes"], report["num_vectors"]
    on_disk = sum(int(part["bytes"]) for part in parts.values())
    errors = report["validation_mse"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_row("vectors", f"{num_vectors:,}")
    table.add_row(
        "lists",
        f"{report['num_lists']:,}, {report['empty_lists']:,} empty, the longest has {report['longest_list']:,} vectors",
    )
    table.add_row("bytes per vector", f"{sizes['per_entry']} in the lists, {on_disk / num_vectors:.1f} with all files")
    table.add_row("MSE on validation", ", ".join(f"{name} {squared_error_text(mse)}" for name, mse in errors.items()))
    table.add_row("seconds", ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items()))
    return table
