"""Results of `search` as files."""

import json
from pathlib import Path
from typing import Any

from qinco_lit.atomic import write_atomically
from qinco_lit.reports.kit.plots import figure_bytes
from qinco_lit.reports.search import csv_table, markdown_report, recall_figure

Record = dict[str, Any]


def write_results(record: Record, output_dir: Path) -> None:
    """Write tables, plots and `search.json` of a record of `search`."""
    figure = recall_figure(record)
    for suffix in ("png", "svg"):
        write_atomically(output_dir / f"search.{suffix}", figure_bytes(figure, suffix))
    write_atomically(output_dir / "search.md", markdown_report(record))
    write_atomically(output_dir / "search.csv", csv_table(record))
    # last: where search.json is, the search is complete
    write_atomically(output_dir / "search.json", json.dumps(record, indent=2) + "\n")
