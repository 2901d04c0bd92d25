"""What a run measured, read back from its metrics.jsonl."""

import json
from pathlib import Path
from typing import Any


def measured(metrics_path: Path) -> dict[str, Any]:
    """What summary.json says of the reports.

    Keys: `best_epoch` (from 0; None without validation), `best_metrics`, the report of that epoch, and
    `last_metrics`, the last figures of validation and dead codewords.
    """
    best = best_epoch(metrics_path)
    last: dict[str, float] = {}
    for row in _rows(metrics_path):
        figures = {name: value for name, value in row.items() if name.startswith("val/")}
        last |= figures | {name: row[name] for name in ("train/dead_codewords",) if name in row}
    return {"best_epoch": best.get("epoch"), "best_metrics": best, "last_metrics": last}


def best_epoch(metrics_path: Path) -> dict[str, float]:
    """The report of the validation with the lowest `val/mse`; empty when there was none.

    Keys as in the file: `val/mse`, `val/mse_step_m`, `val/entropy_bits`, ..., `epoch` (from 0), `step`. Of two reports
    of one step the later counts.
    """
    by_step = {row["step"]: row for row in _rows(metrics_path) if "val/mse" in row}
    return min(by_step.values(), key=lambda row: row["val/mse"], default={})


def _rows(metrics_path: Path) -> list[dict[str, float]]:
    """The reports; a line that a kill cut short is none."""
    rows = []
    for line in metrics_path.read_text().splitlines() if metrics_path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
