"""Results of `search` as files and as a W&B run."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qinco_lit.atomic import write_atomically
from qinco_lit.reports.rate_distortion import figure_bytes
from qinco_lit.reports.search import csv_table, markdown_report, point_rows
from qinco_lit.reports.search_plot import recall_figure

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


@contextmanager
def track(
    output_dir: Path, logger: Mapping[str, Any] | None, config: Mapping[str, Any]
) -> Iterator[Callable[[Record], None]]:
    """Open a W&B run for the block, which gives its record to what this yields; without a logger nothing happens.

    Raises:
        ValueError: W&B refuses, for instance online without a login.
    """
    if logger is None:
        yield lambda _: None
        return
    from qinco_lit.training.wandb_run import finish_wandb, start_wandb

    output_dir.mkdir(parents=True, exist_ok=True)
    run: Any = start_wandb(output_dir, config=config, **logger)
    failed = True
    try:
        yield lambda record: _log(run.experiment, record)
        failed = False
    finally:
        finish_wandb([run], failed=failed)


def _log(run: Any, record: Record) -> None:
    """The points and the fronts as tables, and the speed near the best recall of each engine as summary."""
    import wandb

    header, rows = point_rows(record)
    on_front = [row for row in rows if any(row[header.index(f"front_{k}")] for k in record["settings"]["recall_at"])]
    tables = {"search/points": rows, "search/fronts": on_front}
    run.log({name: wandb.Table(columns=[*header], data=data) for name, data in tables.items()})
    for name, engine in record["engines"].items():
        for k, place in engine["within_a_point_of_the_best"].items():
            run.summary[f"search/{name}/queries_per_s_near_best_recall_at_{k}"] = engine["points"][place][
                "queries_per_s"
            ]
            run.summary[f"search/{name}/recall_at_{k}"] = engine["points"][engine["best"][k]][f"recall_at_{k}"]
