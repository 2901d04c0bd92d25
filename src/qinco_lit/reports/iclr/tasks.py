"""The tasks of a reproduction: which cell each fills or why it is empty, and where all numbers come from."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qinco_lit.progress import duration
from qinco_lit.reports.iclr.numbers import (
    Measurements,
    dataset_label,
    metric_label,
    run_href,
    settings_text,
    value_text,
)
from qinco_lit.reports.kit.page import Block, Cell, Details, Heading, Link, Paragraph, TableBlock

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
class ToldTask:
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


def read_tasks(raw: Iterable[Mapping[str, Any]]) -> tuple[ToldTask, ...]:
    """Take tasks as in results.json.

    Raises:
        ValueError: a task without a name or a state.
    """
    return tuple(_task(place, each) for place, each in enumerate(raw))


def _task(place: int, raw: Mapping[str, Any]) -> ToldTask:
    for name in ("name", "state"):
        if not raw.get(name):
            raise ValueError(f'task {place} of results.json has no "{name}": {dict(raw)}')
    folder = str(raw.get("folder") or "")
    match = _FOLDER.match(folder)
    told = match.groupdict() if match else {"dataset": folder.partition("/")[0], "method": "", "num_bytes": None}
    told |= {name: raw[name] for name in ("dataset", "method", "num_bytes") if raw.get(name)}
    wall_s, cost_s = (None if raw.get(name) is None else float(raw[name]) for name in ("wall_s", "cost_s"))
    num_bytes = told["num_bytes"]
    return ToldTask(
        **{name: str(raw.get(name) or "") for name in ("name", "state", "command", "reason")},
        sections=tuple(raw.get("sections") or [raw.get("section", "")]),
        folder=folder,
        wall_s=wall_s,
        cost_s=cost_s,
        dataset=str(told["dataset"]),
        method=str(told["method"]),
        num_bytes=None if num_bytes is None else int(num_bytes),
    )


def why_empty(tasks: Sequence[ToldTask], section: str, dataset: str, method: str, num_bytes: float) -> ToldTask | None:
    """Return the task because of which this cell has no number; None when there is no such task."""
    here = [task for task in tasks if section in task.sections and task.dataset == dataset and task.state != "done"]
    of_rate = [task for task in here if task.num_bytes == num_bytes]
    found = [task for task in of_rate if plain_name(task.method) == plain_name(method)]
    if not found and method in _BASELINES:
        # measured beside a codec of the same rate, or on their own
        found = [task for task in of_rate if task.method == BASELINES] or of_rate
    found.sort(key=lambda task: _FIRST_REASON.index(task.state) if task.state in _FIRST_REASON else -1)
    return found[0] if found else None


def state_cell(task: ToldTask | None) -> Link | str | None:
    """Return what stands in place of a number: the state, leading to the folder of what failed."""
    if task is None:
        return None
    failed = task.folder and task.state == "failed"
    return Link(task.state_text, run_href(task.folder)) if failed else task.state_text


def state_counts(tasks: Sequence[ToldTask]) -> str:
    """Return how many tasks are in which state: 12 done, 4 missing data."""
    counts = Counter(task.state_text for task in tasks)
    order = [*STATE_TEXTS.values(), *sorted(set(counts) - set(STATE_TEXTS.values()))]
    return ", ".join(f"{counts[text]} {text}" for text in order if counts[text])


def plain_name(method: str) -> str:
    """Return a method's letters and digits, small: a folder's QINCo1-L2 is the method QINCo1 (L=2)."""
    return re.sub(r"[^a-z0-9]", "", method.lower())


# --- where the numbers come from -----------------------------------------------------------------------------------


def state_blocks(tasks: Sequence[ToldTask]) -> Iterator[Block]:
    """Yield how far the reproduction is, what data is missing and what failed."""
    if not tasks:
        return
    yield Heading("State")
    yield Paragraph(f"{len(tasks)} tasks: {state_counts(tasks)}.")
    missing = [task for task in tasks if task.state == "missing_data"]
    if missing:
        yield Paragraph("Nothing is downloaded by itself. What the tasks without data need:")
        datasets = dict.fromkeys(task.dataset for task in missing)
        rows: list[list[Cell]] = []
        for dataset in datasets:
            of_set = [task for task in missing if task.dataset == dataset]
            reasons = dict.fromkeys(task.reason for task in of_set if task.reason)
            rows += [[dataset_label(dataset), len(of_set), reason] for reason in reasons or [""]]
        yield TableBlock(["data set", "tasks", "what brings it"], rows)
    failed = [task for task in tasks if task.state == "failed"]
    if failed:
        rows = [[_task_link(task), task.reason] for task in failed]
        yield TableBlock(["failed task", "reason"], rows)


def revision_blocks(results: Mapping[str, Any]) -> Iterator[Block]:
    """Yield a warning where the runs are of several versions of the code."""
    runs = _runs_by_revision(results)
    if len(runs) > 1:
        counts = ", ".join(f"{name} ({len(folders)} run folders)" for name, folders in runs.items())
        yield Paragraph(
            f"Numbers here are of {len(runs)} versions of the code, whose defaults may differ: {counts}. "
            "`results.json` tells which run is of which."
        )


def _runs_by_revision(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Run folders by git revision, the most frequent first; those that tell none are left out."""
    told = [(each["run"], each.get("git_revision")) for each in results.get("records") or ()]
    told += [(each.get("folder"), each.get("git_revision")) for each in results.get("tasks") or ()]
    runs: dict[str, list[str]] = {}
    for folder, name in dict.fromkeys(told):
        if name:
            runs.setdefault(name, []).append(folder)
    return dict(sorted(runs.items(), key=lambda item: -len(item[1])))


def provenance_blocks(
    results: Mapping[str, Any], tasks: Sequence[ToldTask], measurements: Measurements
) -> Iterator[Block]:
    """Yield environment, all tasks with command and wall time, and every record."""
    yield Heading("Where the numbers come from")
    rows: list[list[Cell]] = [[name, value] for name, value in _flat(results.get("environment") or {})]
    if rows:
        yield TableBlock(["environment", ""], rows, "Of this report; each run folder holds its own.", sortable=False)
    runs = _runs_by_revision(results)
    if runs:
        cells: list[list[Cell]] = [[name, len(folders)] for name, folders in runs.items()]
        yield TableBlock(["git revision of the runs", "run folders"], cells, sortable=False)
    if tasks:
        yield Details(_tasks_summary(tasks), [_task_table(tasks, str(results.get("estimates_for") or ""))])
    records = [record for each in measurements.all for record in each.records]
    if records:
        yield Details(f"every record: {len(records):,}", [_record_table(measurements)])


def _tasks_summary(tasks: Sequence[ToldTask]) -> str:
    seconds = sum(task.wall_s or 0.0 for task in tasks)
    return f"every task, its command and time: {len(tasks)} tasks, {duration(seconds)} in all"


def _task_table(tasks: Sequence[ToldTask], estimates_for: str) -> TableBlock:
    rows: list[list[Cell]] = [
        [
            _task_link(task),
            ", ".join(task.sections),
            task.state_text,
            None if task.wall_s is None else round(task.wall_s, 1),
            None if task.cost_s is None else round(task.cost_s),
            task.command,
            task.reason,
        ]
        for task in tasks
    ]
    caption = f"Estimates are for: {estimates_for}." if estimates_for else ""
    return TableBlock(["task", "section", "state", "wall time, s", "estimate, s", "command", "reason"], rows, caption)


def _record_table(measurements: Measurements) -> TableBlock:
    header = ["run", "section", "data set", "method", "bytes", "settings", "metric", "value", "seed"]
    rows: list[list[Cell]] = []
    for each in measurements.all:
        for record in each.records:
            metric, dataset = record.metric, record.dataset
            rows.append(
                [
                    Link(record.run, run_href(record.run)),
                    record.section,
                    dataset_label(dataset),
                    record.method,
                    record.num_bytes,
                    settings_text(record.settings),
                    metric_label(metric, dataset),
                    value_text(record.value, metric, dataset),
                    record.seed,
                ]
            )
    return TableBlock(header, rows)


def _task_link(task: ToldTask) -> Cell:
    started = task.folder and task.state not in ("missing_data", "not_run", "skipped")
    return Link(task.name, run_href(task.folder)) if started else task.name


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}: ")
        else:
            texts = [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
            yield label, "none" if value is None or not texts else ", ".join(texts)
