"""What a call leaves for people: `results.json`, every number with its run folder, and the report made of it."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qinco_lit.atomic import write_atomically
from qinco_lit.reproducing.engine import Outcome
from qinco_lit.reproducing.records import collect, revision
from qinco_lit.reproducing.tasks import Task

RESULTS = "results.json"


def write_results(
    tasks: Sequence[Task],
    outcomes: Mapping[str, Outcome],
    output: Path,
    *,
    scale_name: str,
    hardware: str,
    data_dir: str = "",
) -> dict[str, Any]:
    """Write `results.json` of all tasks that are done, then the report; return what is in the file.

    Args:
        tasks: all of the scale.
        outcomes: of each by name; only what is `done` gives records.
        output: the folder of all tasks.
        scale_name: which scale it is.
        hardware: that the estimated costs are for.
        data_dir: what commands begin with, of `typed_data_dir`.
    """
    from qinco_lit.environment import environment
    from qinco_lit.reports.iclr import write_report

    done = [task for task in tasks if outcomes[task.name].state == "done"]
    results = {
        "schema_version": 1,
        "scale": scale_name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "environment": environment(),
        "estimates_for": hardware,
        "records": collect(done, output),
        "tasks": [_task(task, outcomes[task.name], output, data_dir) for task in tasks],
    }
    write_atomically(output / RESULTS, json.dumps(results, indent=1) + "\n")
    write_report(results, output)
    return results


def _task(task: Task, outcome: Outcome, output: Path, data_dir: str) -> dict[str, Any]:
    command = shlex.join(["qinco", *task.words(str(output))])
    return {
        "name": task.name,
        "section": task.sections[0],
        "sections": list(task.sections),
        "state": outcome.state,
        "command": f"{data_dir} {command}" if data_dir else command,
        "folder": task.name,
        "cost_s": round(task.cost_s, 1),
        "wall_s": outcome.wall_s,
        "reason": outcome.reason,
        "git_revision": revision(task, output) if outcome.state == "done" else None,
    }
