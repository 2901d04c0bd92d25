"""Run folders as `qinco train`, `evaluate` and `search` leave them, made in milliseconds."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import make_run
from qinco_lit.reports.compare.records import find_folders
from qinco_lit.reports.compare.rows import Run
from qinco_lit.reports.compare.runs import read_runs
from tests.cli.conftest import qinco, refused

__all__ = ["qinco", "refused"]  # the command in this process, in an empty folder

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write tmp_path/NAME, a run folder."""

    def run(name: str, **options: Any) -> Path:
        chosen = {"num_steps": 4, "beam_size": 8, "lr": 0.004, "seed": 0, "evaluated": False} | options
        make_run(tmp_path / name, random.Random(name), **chosen)
        return tmp_path / name

    return run


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def read(*paths: Path) -> tuple[list[Run], list[str]]:
    """Return the rows found there and the warnings."""
    found = find_folders(paths)
    warnings = list(found.warnings)
    return read_runs(found, warnings.append), warnings


def search_record(
    recalls: tuple[float, ...] = (0.5, 0.6, 0.62), speeds: tuple[float, ...] = (900.0, 500.0, 100.0)
) -> Any:
    """A search.json of our index, each point on the front, and of one index of faiss."""
    points = [
        {
            "engine": "qinco", "parameters": {"nprobe": 4 + place}, "recall_at_1": recall, "recall_at_10": recall + 0.3,
            "queries_per_s": speed, "latency_median_s": 1 / speed,
        }
        for place, (recall, speed) in enumerate(zip(recalls, speeds, strict=True))
    ]  # fmt: skip
    last = len(points) - 1
    engine = {
        "bytes_per_vector": {"codes": 8, "norm": 2}, "points": points, "best": {"1": last, "10": last},
        "within_a_point_of_the_best": {"1": last, "10": last},
        "fronts": {"1": list(range(len(points))), "10": list(range(len(points)))},
    }  # fmt: skip
    return {
        "schema_version": 1, "index": {"num_lists": 64, "model": {"outer_skip": True, "num_steps": 8}},
        "data": {"name": "photo_sift", "metric": "l2", "num_database": 20_000, "num_queries": 1000},
        "settings": {"recall_at": [1, 10], "batch_size": 1024}, "num_threads": {"torch": 1, "faiss": 1},
        "hardware": {"processor": "a processor"},
        "engines": {"qinco": engine, "ivf_pq": {**engine, "bytes_per_vector": {"codes": 8}}},
    }  # fmt: skip
