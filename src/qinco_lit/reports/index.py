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
    per_vector = sizes["per_vector"]
    fixed = sum(int(part["bytes"]) for part in parts.values()) - sizes["lists"]
    errors = report["validation_mse"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_row("vectors", f"{num_vectors:,}")
    table.add_row(
        "lists",
        f"{report['num_lists']:,}, {report['empty_lists']:,} empty, the longest has {report['longest_list']:,} vectors",
    )
    each = ", ".join(f"{name} {size}" for name, size in per_vector.items())
    table.add_row("bytes per vector", f"{sum(per_vector.values())}: {each}")
    named = {"centroids": sizes["centroids"], "pairwise": sizes["pairwise"]}
    named["others"] = fixed - sum(named.values())
    shares = ", ".join(f"{name} {_megabytes(size)}" for name, size in named.items() if size)
    table.add_row("fixed MB", f"{_megabytes(fixed)}: {shares}")
    table.add_row("MSE on validation", ", ".join(f"{name} {squared_error_text(mse)}" for name, mse in errors.items()))
    table.add_row("seconds", ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items()))
    return table


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.{1 if num_bytes >= 1e6 else 3}f}"
