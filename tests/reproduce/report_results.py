"""Records and tasks as in results.json, and a look at what the report makes of them."""

from typing import Any

from qinco_lit.reports.kit.page import Cell, Link, TableBlock


def record(method: str, value: float | None, *, metric: str = "mse", seed: int = 0, **others: Any) -> dict[str, Any]:
    """One record of the main section on BigANN1M at 8 bytes, unless told otherwise."""
    dataset, num_bytes = others.get("dataset", "bigann1m"), others.get("num_bytes", 8)
    return {
        "section": "main",
        "dataset": dataset,
        "method": method,
        "num_bytes": num_bytes,
        "metric": metric,
        "value": value,
        "seed": seed,
        "settings": {},
        "run": f"{dataset}/{method}-{num_bytes}B-s{seed}/evaluate",
    } | others


def task(folder: str, state: str, *, section: str = "main", **others: Any) -> dict[str, Any]:
    """One task whose command lies in its folder's name."""
    command = f"qinco {folder.rpartition('/')[2]} hydra.run.dir=OUTPUT/{folder}"
    return {
        "name": folder,
        "section": section,
        "state": state,
        "command": command,
        "folder": folder,
        "wall_s": None if state in ("missing_data", "not_run") else 12.5,
        "cost_s": 40.0,
        "reason": "",
    } | others


def results(
    records: list[dict[str, Any]], tasks: list[dict[str, Any]] | None = None, scale: str = "paper"
) -> dict[str, Any]:
    """The content of a results.json."""
    environment = {"versions": {"torch": "2.13.0"}, "git_revision": "abc123+", "hardware": {"cpu_count": 2, "gpus": []}}
    return {
        "scale": scale,
        "created": "2026-11-22T23:00:00+0000",
        "environment": environment,
        "records": records,
        "tasks": tasks or [],
    }


def text(cell: Cell) -> str:
    """What a reader sees of a cell."""
    return cell.text if isinstance(cell, Link) else "" if cell is None else str(cell)


def column(table: TableBlock, name: str) -> dict[str, str]:
    """A column's texts by the first cell of their rows."""
    place = list(table.header).index(name)
    return {text(row[0]): text(row[place]) for row in table.rows}


def links(table: TableBlock) -> dict[str, str]:
    """The links of a table: text to address."""
    return {cell.text: cell.href for row in table.rows for cell in row if isinstance(cell, Link)}
