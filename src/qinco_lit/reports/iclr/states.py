"""The tasks of a reproduction: which cell they would have filled, and why it is empty."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qinco_lit.reports.iclr.numbers import run_href
from qinco_lit.reports.page import Link

STATE_TEXTS = {
    "done": "done",
    "failed": "failed",
    "missing_data": "missing data",
    "not_run": "not run",
    "skipped": "skipped",
}
# What a cell says when the tasks behind it disagree: the reason that has to go first.
_FIRST_REASON = ("failed", "missing_data", "not_run", "skipped")
_FOLDER = re.compile(r"(?P<dataset>[^/]+)/(?P<method>[^/]+?)-(?P<num_bytes>\d+)B(-s\d+)?(/|$)")
# The folder of methods that are measured together, and those that may be.
BASELINES = "baselines"
_BASELINES = ("OPQ", "PQ", "RQ", "LSQ")


@dataclass(frozen=True)
class Task:
    """One command of the reproduction.

    `folder` is relative to the report, `wall_s` what it took, `cost_s` an estimate, `reason` one line. Data set, method
    and rate are what its results are of: as told, or as its folder's name tells them; empty where neither does.
    """

    name: str
    sections: tuple[str, ...]
    state: str
    command: str
    folder: str
    wall_s: float | None
    cost_s: float | None
    reason: str
    dataset: str
    method: str
    num_bytes: int | None

    @property
    def state_text(self) -> str:
        """The state for readers."""
        return STATE_TEXTS.get(self.state, self.state)


def read_tasks(raw: Iterable[Mapping[str, Any]]) -> tuple[Task, ...]:
    """Take tasks as in results.json.

    Raises:
        ValueError: a task without a name or a state.
    """
    return tuple(_task(place, each) for place, each in enumerate(raw))


def _task(place: int, raw: Mapping[str, Any]) -> Task:
    for name in ("name", "state"):
        if not raw.get(name):
            raise ValueError(f'task {place} of results.json has no "{name}": {dict(raw)}')
    folder = str(raw.get("folder") or "")
    match = _FOLDER.match(folder)
    told = match.groupdict() if match else {"dataset": folder.partition("/")[0], "method": "", "num_bytes": None}
    told |= {name: raw[name] for name in ("dataset", "method", "num_bytes") if raw.get(name)}
    wall_s, cost_s = (None if raw.get(name) is None else float(raw[name]) for name in ("wall_s", "cost_s"))
    num_bytes = told["num_bytes"]
    return Task(
        **{name: str(raw.get(name) or "") for name in ("name", "state", "command", "reason")},
        sections=tuple(raw.get("sections") or [raw.get("section", "")]),
        folder=folder,
        wall_s=wall_s,
        cost_s=cost_s,
        dataset=str(told["dataset"]),
        method=str(told["method"]),
        num_bytes=None if num_bytes is None else int(num_bytes),
    )


def why_empty(tasks: Sequence[Task], section: str, dataset: str, method: str, num_bytes: float) -> Task | None:
    """Return the task because of which this cell has no number; None when there is no such task."""
    here = [task for task in tasks if section in task.sections and task.dataset == dataset and task.state != "done"]
    of_rate = [task for task in here if task.num_bytes == num_bytes]
    found = [task for task in of_rate if plain_name(task.method) == plain_name(method)]
    if not found and method in _BASELINES:
        # measured beside a codec of the same rate, or on their own
        found = [task for task in of_rate if task.method == BASELINES] or of_rate
    found.sort(key=lambda task: _FIRST_REASON.index(task.state) if task.state in _FIRST_REASON else -1)
    return found[0] if found else None


def state_cell(task: Task | None) -> Link | str | None:
    """Return what stands in place of a number: the state, leading to the folder of what failed."""
    if task is None:
        return None
    failed = task.folder and task.state == "failed"
    return Link(task.state_text, run_href(task.folder)) if failed else task.state_text


def state_counts(tasks: Sequence[Task]) -> str:
    """Return how many tasks are in which state: 12 done, 4 missing data."""
    counts = Counter(task.state_text for task in tasks)
    order = [*STATE_TEXTS.values(), *sorted(set(counts) - set(STATE_TEXTS.values()))]
    return ", ".join(f"{counts[text]} {text}" for text in order if counts[text])


def plain_name(method: str) -> str:
    """Return a method's letters and digits, small: a folder's QINCo1-L2 is the method QINCo1 (L=2)."""
    return re.sub(r"[^a-z0-9]", "", method.lower())
