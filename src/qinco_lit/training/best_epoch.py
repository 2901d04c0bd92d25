"""What a run measured at its best epoch, read back from its metrics.jsonl."""

import json
from pathlib import Path


def best_epoch(metrics_path: Path) -> dict[str, float]:
    """The report of the validation with the lowest `val/mse`; empty when there was none.

    Keys as in the file: `val/mse`, `val/mse_step_m`, `val/entropy_bits`, ..., `epoch` (from 0), `step`. Of two reports
    of one step the later counts: the step was trained again after a kill. A line that a kill cut short is no report.
    """
    if not metrics_path.is_file():
        return {}
    by_step: dict[int, dict[str, float]] = {}
    for line in metrics_path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "val/mse" in row:
            by_step[row["step"]] = row
    return min(by_step.values(), key=lambda row: row["val/mse"], default={})
