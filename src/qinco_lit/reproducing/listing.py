"""The tasks as text: for dry runs, and what ends a call."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from qinco_lit.reproducing.engine import Outcome, in_words
from qinco_lit.reproducing.tasks import Task, by_cost

_STATES = {
    "done": "done",
    "missing_data": "missing data",
    "not_run": "to run",
    "failed": "failed",
    "skipped": "skipped",
}

# As in conf: data_dir: ${oc.env:QINCO_DATA,data}.
_DATA_VARIABLE, _DATA_DIR = "QINCO_DATA", "data"
_TOLD = ("not_run", "failed")  # the reasons of the others are told once, before


def typed_data_dir(environment: Mapping[str, str]) -> str:
    """Return `QINCO_DATA=DIR` for a shell, of a task's environment; empty where every shell takes that folder."""
    data_dir = environment.get(_DATA_VARIABLE, _DATA_DIR)
    if data_dir == os.environ.get(_DATA_VARIABLE, _DATA_DIR) == _DATA_DIR:
        return ""
    return f"{_DATA_VARIABLE}={shlex.quote(data_dir)}"


def listed(
    tasks: Sequence[Task], outcomes: Mapping[str, Outcome], output: Path, hardware: str, data_dir: str = ""
) -> str:
    """Return every task in the order in which it would run: a comment line with its state, then its command line.

    The whole can be given to a shell: what is not to be run is a comment too. `data_dir`, of `typed_data_dir`, comes
    first.
    """
    lines = [f"export {data_dir}"] if data_dir else []
    for task in by_cost(tasks):
        outcome = outcomes[task.name]
        is_to_run = outcome.state == "not_run" and outcome.reason != "runs now"
        reason = f" ({outcome.reason})" if outcome.reason and outcome.state in _TOLD else ""
        took = f"took {in_words(outcome.wall_s)}" if outcome.wall_s is not None else f"about {in_words(task.cost_s)}"
        lines.append(f"# {_STATES[outcome.state]}{reason}, {took}: {task.name} [{', '.join(task.sections)}]")
        lines.append(f"{'' if is_to_run else '#   '}qinco {shlex.join(task.words(str(output)))}")
    return "\n".join([*lines, f"# {counted(tasks, outcomes, hardware)}"])


def counted(tasks: Sequence[Task], outcomes: Mapping[str, Outcome], hardware: str) -> str:
    """Return how many tasks are in which state, and the estimated time of those to run."""
    states = [outcome.state for outcome in outcomes.values()]
    counts = [f"{states.count(state)} {_STATES[state]}" for state in _STATES if state in states]
    left_s = sum(task.cost_s for task in tasks if outcomes[task.name].state == "not_run")
    estimate = f"; to run: about {in_words(left_s)} on {hardware} (an estimate)" if left_s else ""
    return f"{len(states)} tasks: {', '.join(counts)}{estimate}"


def failures(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Return a line for each task that failed or whose folder was refused."""
    return [f"{name}: {outcome.reason}" for name, outcome in outcomes.items() if outcome.state == "failed"]
